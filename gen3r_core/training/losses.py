"""The losses of Gen3R's training stages, each a plain function of tensors; nothing waits for the device.

Formulas: VGGT (arXiv 2503.11651, section 3.4 of the first version) for cameras, depth and points; flow
matching (arXiv 2210.02747) as Wan2.1 and Gen3R (arXiv 2601.04090) use it; the closed form of the
Kullback-Leibler divergence of two Gaussians. All results are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import quaternion_to_matrix

__all__ = [
    "RegressionLoss",
    "adaptive_weight",
    "add_noise",
    "camera_loss",
    "confident_regression",
    "cosine_distance",
    "flow_target",
    "gaussian_kl",
    "masked_mean",
    "relative_pose_loss",
    "smooth_l1",
]

TRANSLATION, ROTATION, FIELD_OF_VIEW = slice(0, 3), slice(3, 7), slice(7, 9)
"""Channels of a pose encoding."""


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the elements that a mask allows; 0 where it allows none. Masked-out NaN and infinity do no harm.

    Args:
        values: ``[...]`` float.
        mask: ``[...]`` bool of the same shape, or None for all.

    Returns:
        Scalar float32.
    """
    values = values.float()
    if mask is None:
        return values.mean()
    kept = torch.where(mask, values, torch.zeros((), device=values.device))
    return kept.sum() / mask.sum().clamp(min=1)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Mean of ``d^2 / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    Args:
        prediction: ``[...]`` float.
        target: The same shape.
        beta: Where the square ends.
    """
    return F.smooth_l1_loss(prediction.float(), target.float(), beta=beta)


def cosine_distance(prediction: Tensor, target: Tensor, dim: int) -> Tensor:
    """Mean of one minus the cosine between vectors along ``dim``; 0 where they point alike, 2 where opposite."""
    return 1 - F.cosine_similarity(prediction.float(), target.float(), dim=dim).mean()


class RegressionLoss(NamedTuple):
    """Terms of a dense regression; scalars.

    Attributes:
        total: What is minimised.
        error: Mean distance between prediction and truth, without confidence (for the log: detached).
    """

    total: Tensor
    error: Tensor


def confident_regression(
    prediction: Tensor,
    truth: Tensor,
    confidence: Tensor,
    mask: Tensor,
    *,
    alpha: float = 0.2,
    gradient_weight: float = 1.0,
    weight: Tensor | None = None,
) -> RegressionLoss:
    """Confidence-weighted regression of depth or points.

    ``mean(c |p - t|) + mean(c |grad(p - t)|) - alpha mean(log c)`` (arXiv 2503.11651); the gradient is that of
    forward differences along columns and rows, ``|.|`` the Euclidean length over channels, and the means go
    over valid pixels (for differences: both pixels valid). Confidence c settles at ``alpha / error``.

    Args:
        prediction: ``[B, S, H, W, C]`` float.
        truth: The same shape.
        confidence: ``[B, S, H, W]``, positive (the heads give at least 1).
        mask: ``[B, S, H, W]`` bool, where the truth is known.
        alpha: Reward of confidence.
        gradient_weight: Factor of the gradient term.
        weight: ``[B, S, H, W]`` factor of every pixel's error, e.g. ``1 / depth`` for relative errors.

    Returns:
        Total and plain error.
    """
    zero = torch.zeros((), device=prediction.device)
    difference = torch.where(mask[..., None], prediction.float() - truth.float(), zero)
    factor = confidence.float() if weight is None else confidence.float() * torch.where(mask, weight, zero)
    distance = _length(difference)
    total = masked_mean(factor * distance, mask) - alpha * masked_mean(confidence.float().log(), mask)
    if gradient_weight > 0:
        for dim in (2, 3):
            size = mask.shape[dim] - 1
            step = difference.narrow(dim, 1, size) - difference.narrow(dim, 0, size)
            both = mask.narrow(dim, 1, size) & mask.narrow(dim, 0, size)
            total = total + gradient_weight * masked_mean(factor.narrow(dim, 0, size) * _length(step), both)
    return RegressionLoss(total, masked_mean(distance.detach(), mask))


def camera_loss(
    steps: Sequence[Tensor],
    truth: Tensor | Sequence[Tensor],
    *,
    kind: str = "huber",
    delta: float = 0.1,
    decay: float = 0.6,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> Tensor:
    """Loss of pose encodings after each refinement of the camera head.

    Translation, quaternion and fields of view each give a mean over their channels; later refinements count
    more: the last with 1, the one before with ``decay``, and so on, divided by their number.

    Args:
        steps: ``[B, S, 9]`` pose encodings, one a refinement.
        truth: ``[B, S, 9]`` for all of them, or one a refinement.
        kind: "huber" (the paper's; ``d^2 / 2`` below ``delta``, linear with slope ``delta`` above) or "l1" (as
            Gen3R's adapter is trained).
        delta: Of the Huber loss.
        decay: See above.
        weights: Of translation, rotation and field of view.

    Raises:
        InputError: ``kind`` is unknown, or there are no refinements.
    """
    if kind not in {"huber", "l1"}:
        raise InputError(f"camera loss {kind!r} is unknown; choose one of: huber, l1")
    if not steps:
        raise InputError("the camera loss needs the pose encoding of at least one refinement")
    truths = [truth] * len(steps) if isinstance(truth, Tensor) else list(truth)
    total = torch.zeros((), device=steps[0].device)
    for index, (step, true) in enumerate(zip(steps, truths, strict=True)):
        difference = step.float() - true.float()
        errors = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
        if kind == "l1":
            errors = difference.abs()
        parts = [errors[..., channels].mean() for channels in (TRANSLATION, ROTATION, FIELD_OF_VIEW)]
        value = sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros_like(total))
        total = total + decay ** (len(steps) - 1 - index) * value
    return total / len(steps)


def relative_pose_loss(prediction: Tensor, truth: Tensor, *, shortest: float = 0.02) -> Tensor:
    """Errors of the relative poses of all pairs of views, which is what camera AUC measures.

    For the motion ``R, t`` from one view to another: the Frobenius length of the rotations' difference, and the
    length of the translations' difference over the true length, so that a short way asks for the same direction as a
    long one. Errors of more than the way itself count with the square root of that ratio.

    Args:
        prediction: ``[B, S, 9]`` pose encodings; quaternions of any length.
        truth: The same shape.
        shortest: Added to the true length, in the encodings' unit.

    Returns:
        Scalar float32; 0 for a single view.
    """
    views = truth.shape[1]
    if views < 2:
        return prediction.float().sum() * 0
    first, second = torch.triu_indices(views, views, offset=1, device=truth.device)
    motions = []
    for encoding in (prediction.float(), truth.float()):
        rotation, translation = quaternion_to_matrix(encoding[..., ROTATION]), encoding[..., TRANSLATION]
        # Sums of products: autocast would round a matrix product.
        turn = (rotation[:, second][..., :, None, :] * rotation[:, first][..., None, :, :]).sum(dim=-1)
        motions.append((turn, translation[:, second] - (turn * translation[:, first][..., None, :]).sum(dim=-1)))
    (turn, way), (true_turn, true_way) = motions
    rotation_error = _length((turn - true_turn).flatten(-2))
    ratio = _length(way - true_way) / (true_way.norm(dim=-1) + shortest)
    ratio = torch.where(ratio > 1, ratio.clamp(min=1).sqrt(), ratio)
    return rotation_error.mean() + ratio.mean()


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents on the straight line to noise: ``(1 - sigma) x + sigma n``.

    Args:
        latents: ``[B, ...]`` clean.
        noise: ``[B, ...]`` standard normal.
        sigma: ``[B]`` noise levels in [0, 1].
    """
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_target(latents: Tensor, noise: Tensor) -> Tensor:
    """The velocity along that line: ``noise - latents``."""
    return noise - latents


def gaussian_kl(mean: Tensor, logvar: Tensor, other_mean: Tensor, other_logvar: Tensor) -> Tensor:
    """Mean over elements of ``KL(N(mean, exp(logvar)) || N(other_mean, exp(other_logvar)))`` in nats.

    ``(v / v' + (m - m')^2 / v' - 1 + log v' - log v) / 2``.

    Args:
        mean: ``[...]`` of the first Gaussian.
        logvar: The same shape.
        other_mean: The same shape, of the second Gaussian.
        other_logvar: The same shape.
    """
    difference = logvar.float() - other_logvar.float()
    distance = (mean.float() - other_mean.float()).square() * torch.exp(-other_logvar.float())
    return 0.5 * (difference.exp() + distance - 1 - difference).mean()


def adaptive_weight(reference: Tensor, loss: Tensor, share: float, limit: float = 1.0) -> Tensor:
    """Factor that makes ``loss`` a share of ``reference``: ``share * reference / loss``, at most ``limit``."""
    ratio = share * reference.detach() / loss.detach().clamp(min=torch.finfo(torch.float32).tiny)
    return ratio.clamp(max=limit)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean length along the last dimension, with gradient 0 at length 0."""
    if vectors.shape[-1] == 1:
        return vectors[..., 0].abs()
    squared = vectors.square().sum(dim=-1)
    return torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt() * (squared > 0)
