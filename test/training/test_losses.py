"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.training import losses


def test_masked_mean_leaves_out_what_is_masked_even_nan():
    values = torch.tensor([1.0, 3.0, math.nan, math.inf])
    mask = torch.tensor([True, True, False, False])
    assert losses.masked_mean(values, mask) == 2
    assert losses.masked_mean(values[:2], None) == 2


def test_masked_mean_of_nothing_is_zero_and_has_a_gradient():
    values = torch.ones(3, requires_grad=True)
    mean = losses.masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0
    assert torch.equal(values.grad, torch.zeros(3))


def test_smooth_l1():
    # |d| = 0.1 < 0.5: 0.01 / (2 * 0.5) = 0.01; |d| = 2: 2 - 0.25 = 1.75
    value = losses.smooth_l1(torch.tensor([0.1, 2.0]), torch.zeros(2), beta=0.5)
    assert value == pytest.approx((0.01 + 1.75) / 2)


def test_cosine_distance():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert losses.cosine_distance(a, b, dim=1) == pytest.approx((0 + 1 + 2) / 3)


def _dense(values, channels=1):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 2, 2, channels)


def test_confident_regression_by_hand():
    prediction, truth = _dense([1.0, 2.0, 3.0, 5.0]), _dense([1.0, 1.0, 1.0, 1.0])
    confidence = torch.tensor([1.0, 2.0, 1.0, 4.0]).view(1, 1, 2, 2)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    # differences 0 1 / 2 4; errors times confidence: 0, 2, 2, 16
    value = 20 / 4
    # between rows: |2 - 0| * 1, |4 - 1| * 2; between columns: |1 - 0| * 1, |4 - 2| * 1
    gradient = (2 + 6) / 2 + (1 + 2) / 2
    reward = (math.log(2) + math.log(4)) / 4
    loss = losses.confident_regression(prediction, truth, confidence, mask, alpha=0.2)
    assert loss.total == pytest.approx(value + gradient - 0.2 * reward)
    assert loss.error == pytest.approx(7 / 4)
    half = losses.confident_regression(prediction, truth, confidence, mask, alpha=0.0, gradient_weight=0.0)
    assert half.total == pytest.approx(value)


def test_confident_regression_uses_only_pairs_of_known_pixels():
    prediction, truth = _dense([1.0, 2.0, 3.0, math.nan]), _dense([1.0, 1.0, 1.0, 1.0])
    mask = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    loss = losses.confident_regression(prediction, truth, torch.ones(1, 1, 2, 2), mask)
    assert loss.total == pytest.approx((0 + 1 + 2) / 3 + 2 + 1)


def test_confident_regression_of_points_takes_euclidean_distances():
    prediction = torch.zeros(1, 1, 2, 2, 3)
    truth = torch.tensor([3.0, 4.0, 0.0]).expand(1, 1, 2, 2, 3)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    confidence = torch.full((1, 1, 2, 2), 2.0)
    loss = losses.confident_regression(prediction, truth, confidence, mask, alpha=0.0)
    assert loss.total == pytest.approx(10)
    assert loss.error == pytest.approx(5)


def test_confident_regression_with_relative_errors():
    prediction, truth = _dense([2.0, 2.0, 2.0, 2.0]), _dense([1.0, 4.0, 4.0, 4.0])
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    loss = losses.confident_regression(
        prediction, truth, torch.ones(1, 1, 2, 2), mask, alpha=0.0, gradient_weight=0.0, weight=1 / truth[..., 0]
    )
    assert loss.total == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)


def test_confident_regression_has_finite_gradients_where_prediction_is_right():
    prediction = torch.zeros(1, 1, 2, 2, 3, requires_grad=True)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    losses.confident_regression(prediction, torch.zeros(1, 1, 2, 2, 3), torch.ones(1, 1, 2, 2), mask).total.backward()
    assert torch.isfinite(prediction.grad).all()


def test_confidence_settles_at_alpha_over_error():
    prediction, truth = _dense([1.5] * 4), _dense([1.0] * 4)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    confidence = torch.full((1, 1, 2, 2), 0.4, requires_grad=True)  # 0.2 / 0.5
    losses.confident_regression(prediction, truth, confidence, mask, alpha=0.2, gradient_weight=0.0).total.backward()
    torch.testing.assert_close(confidence.grad, torch.zeros(1, 1, 2, 2))


def test_camera_loss_weights_later_refinements_more():
    truth = torch.zeros(1, 1, 9)
    far, near = truth.clone(), truth.clone()
    far[..., 0] = 3.0  # translation: mean over three channels 1
    near[..., 7] = 1.0  # field of view: mean over two channels 0.5, weight 0.5
    assert losses.camera_loss([far, near], truth, kind="l1") == pytest.approx((0.6 * 1 + 0.25) / 2)
    assert losses.camera_loss([near, far], truth, kind="l1") == pytest.approx((0.6 * 0.25 + 1) / 2)


def test_camera_loss_huber():
    truth, step = torch.zeros(1, 1, 9), torch.zeros(1, 1, 9)
    step[..., 3], step[..., 4] = 0.05, 0.5  # 0.05^2 / 2, and 0.1 * (0.5 - 0.05)
    assert losses.camera_loss([step], truth, delta=0.1) == pytest.approx((0.00125 + 0.045) / 4)


def test_camera_loss_against_refinements_one_by_one():
    steps = [torch.full((1, 2, 9), 1.0), torch.full((1, 2, 9), 2.0)]
    assert losses.camera_loss(steps, steps, kind="l1") == 0


def test_camera_loss_refuses():
    with pytest.raises(InputError, match="camera loss 'l2' is unknown; choose one of: huber, l1"):
        losses.camera_loss([torch.zeros(1, 1, 9)], torch.zeros(1, 1, 9), kind="l2")
    with pytest.raises(InputError, match="at least one refinement"):
        losses.camera_loss([], torch.zeros(1, 1, 9))


def test_flow_matching_is_a_straight_line():
    latents, noise = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[5.0, -2.0], [5.0, -2.0]])
    noisy = losses.add_noise(latents, noise, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(noisy, torch.tensor([[2.0, 1.0], [5.0, -2.0]]))
    target = losses.flow_target(latents, noise)
    torch.testing.assert_close(noisy - torch.tensor([[0.25], [1.0]]) * target, latents)


def test_gaussian_kl_by_hand():
    # means 1 and 0, variances 1 and 4: (1/4 + 1/4 - 1 + log 4) / 2
    one, zero = torch.ones(2), torch.zeros(2)
    value = losses.gaussian_kl(one, zero, zero, torch.full((2,), math.log(4)))
    assert value == pytest.approx((0.5 - 1 + math.log(4)) / 2)
    assert losses.gaussian_kl(one, zero, one, zero) == 0


def test_gaussian_kl_is_torchs():
    generator = torch.Generator().manual_seed(0)
    m, v, n, w = (torch.randn(50, generator=generator) for _ in range(4))
    first = torch.distributions.Normal(m, (0.5 * v).exp())
    second = torch.distributions.Normal(n, (0.5 * w).exp())
    expected = torch.distributions.kl_divergence(first, second).mean()
    torch.testing.assert_close(losses.gaussian_kl(m, v, n, w), expected)


def test_adaptive_weight_is_a_share_with_a_limit_and_no_gradient():
    reference, loss = torch.tensor(4.0, requires_grad=True), torch.tensor(20.0, requires_grad=True)
    weight = losses.adaptive_weight(reference, loss, 0.1)
    assert float(weight * loss.detach()) == pytest.approx(0.4)
    assert not weight.requires_grad
    assert losses.adaptive_weight(reference, torch.tensor(0.0), 0.1, limit=3.0) == 3
