from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 4, 9, 32, generator=torch.Generator().manual_seed(5))


def test_one_estimate_per_step(model, tokens):
    steps = model.camera_head(tokens)
    assert [tuple(step.shape) for step in steps] == [(2, 4, 9)] * 3
    assert len(model.camera_head(tokens, num_iterations=5)) == 5
    torch.testing.assert_close(model.camera_head(tokens, num_iterations=1)[0], steps[0])
    assert not torch.allclose(steps[0], steps[1])


def test_first_step_by_hand(fresh_model, tokens):
    """The second norm's epsilon shows because the first norm's weights are made small."""
    head = fresh_model.camera_head
    torch.nn.init.constant_(head.token_norm.weight, 1e-3)
    torch.nn.init.zeros_(head.token_norm.bias)
    cameras = head.token_norm(tokens[:, :, 0])
    mean, variance = cameras.mean(dim=-1, keepdim=True), cameras.var(dim=-1, keepdim=True, unbiased=False)
    modulation = head.poseLN_modulation[1](F.silu(head.embed_pose(head.empty_pose_tokens)))
    shift, scale, gate = modulation.chunk(3, dim=-1)
    conditioned = cameras + gate * ((cameras - mean) / (variance + 1e-6).sqrt() * (1 + scale) + shift)
    raw = head.pose_branch(head.trunk_norm(head.trunk(conditioned)))
    expected = torch.cat([raw[..., :7], raw[..., 7:].clamp(min=0)], dim=-1)
    torch.testing.assert_close(head(tokens)[0], expected, rtol=1e-4, atol=1e-4)


def test_only_camera_tokens_are_read(model, tokens):
    others = tokens.clone()
    others[:, :, 1:] = 7.0
    for left, right in zip(model.camera_head(tokens), model.camera_head(others), strict=True):
        assert torch.equal(left, right)


def test_fields_of_view_are_not_negative(fresh_model, tokens):
    torch.nn.init.constant_(fresh_model.camera_head.pose_branch.fc2.bias, -3.0)
    pose = fresh_model.camera_head(tokens)[-1]
    assert (pose[..., 7:] == 0).all()
    assert (pose[..., :7] < 0).any()


def test_estimates_add_up(fresh_model, tokens):
    """With a branch that always says the same, step n is n times its bias."""
    torch.nn.init.zeros_(fresh_model.camera_head.pose_branch.fc2.weight)
    bias = torch.linspace(0.1, 0.9, 9)
    with torch.no_grad():
        fresh_model.camera_head.pose_branch.fc2.bias.copy_(bias)
    for count, step in enumerate(fresh_model.camera_head(tokens), start=1):
        torch.testing.assert_close(step, (count * bias).expand(2, 4, 9))


def test_no_gradient_between_steps(fresh_model, tokens):
    """The empty pose conditions the first step alone, so the last step must not reach it."""
    empty = fresh_model.camera_head.empty_pose_tokens
    steps = fresh_model.camera_head(tokens.requires_grad_())
    (through_last,) = torch.autograd.grad(steps[-1].sum(), empty, allow_unused=True, retain_graph=True)
    assert through_last is None
    (through_first,) = torch.autograd.grad(steps[0].sum(), empty, retain_graph=True)
    assert through_first.abs().sum() > 0
    (to_tokens,) = torch.autograd.grad(steps[-1].sum(), tokens)
    assert to_tokens[:, :, 0].abs().sum() > 0


def test_half_precision_sums_in_float32(fresh_model, tokens):
    reference = fresh_model.camera_head(tokens)[-1]
    pose = fresh_model.bfloat16().camera_head(tokens)[-1]
    assert pose.dtype == torch.float32
    torch.testing.assert_close(pose, reference, rtol=0.05, atol=0.05)
