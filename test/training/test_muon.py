"""Muon: what it does to matrices, which it takes, steps left out, and its state on disk."""

import io

import pytest
import torch
from torch import nn

from gen3r_core.errors import InputError
from gen3r_core.training.muon import MuonAdamW, hidden_matrices, orthogonalised
from gen3r_core.training.optimisation import make_optimizer
from gen3r_core.training.plan import Plan


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))


def optimizer(module, rate=0.01, decay=0.0):
    own = make_optimizer(module, Plan(optimizer="muon", weight_decay=decay))
    for group in own.param_groups:
        group["lr"] = rate
    return own


def steps(module, own, count, start=0):
    losses = []
    for step in range(start, start + count):
        x = torch.randn(32, 40, generator=torch.Generator().manual_seed(step))
        loss = (module(x) - x[:, :3].sin()).square().mean()
        own.zero_grad()
        loss.backward()
        own.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)])
def test_singular_values_become_alike(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1e-3
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    nearest = left @ right
    cosine = nn.functional.cosine_similarity(orthogonalised(matrices).flatten(1), nearest.flatten(1))
    assert cosine.min() > 0.95
    assert orthogonalised(torch.zeros(1, *shape)).abs().max() == 0


def test_it_takes_the_matrices_inside_and_leaves_the_rest():
    module = network()
    assert [tuple(weight.shape) for weight in hidden_matrices(module)] == [(64, 40), (64, 64)]
    own = optimizer(module)
    assert isinstance(own, MuonAdamW)
    assert [len(group["params"]) for group in own.param_groups if group["muon"]] == [2]
    assert sum(len(group["params"]) for group in own.param_groups) == 6
    assert not isinstance(make_optimizer(nn.Linear(4, 4), Plan(optimizer="muon")), MuonAdamW)
    with pytest.raises(InputError, match="optimizer"):
        Plan(optimizer="sgd")


def test_a_step_has_the_size_of_adams():
    module = network()
    before = module[2].weight.detach().clone()
    own = optimizer(module)
    module[2].weight.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    own.step()
    size = (module[2].weight.detach() - before).square().mean().sqrt() / 0.01
    assert 0.15 < size < 0.25


def test_it_learns():
    module = network()
    losses = steps(module, optimizer(module), 150)
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_a_step_that_is_left_out_changes_nothing():
    module = network()
    own = optimizer(module, decay=0.1)
    steps(module, own, 2)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    momentum = own.state[module[2].weight]["momentum"].clone()
    own.found_inf = torch.ones(())
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    own.step()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert torch.equal(own.state[module[2].weight]["momentum"], momentum)
    own.found_inf = torch.zeros(())
    steps(module, own, 1)
    assert not torch.equal(before[2], module[2].weight)


def test_resumed_equals_unbroken():
    whole, broken = network(), network()
    first = optimizer(whole, decay=0.01)
    steps(whole, first, 6)
    second = optimizer(broken, decay=0.01)
    steps(broken, second, 3)
    file = io.BytesIO()
    torch.save({"weights": broken.state_dict(), "state": second.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    again = network(1)
    again.load_state_dict(saved["weights"])
    third = optimizer(again, decay=0.01)
    third.load_state_dict(saved["state"])
    steps(again, third, 3, start=3)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
