"""How close pictures are: PSNR and SSIM, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor

from gen3r_core.errors import InputError

__all__ = ["SSIM_WINDOW", "frame_psnr", "ssim"]

SSIM_WINDOW = 11
"""Side of the Gaussian window in pixels; smaller frames have no SSIM."""

_SSIM_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_LEAST_ERROR = 1e-10


def frame_psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in decibels: ``-10 log10(mean squared error)``, at most 100.

    Args:
        prediction: ``[..., C, H, W]`` or ``[..., H, W, C]`` in [0, 1]; the last three dimensions are one frame.
        truth: The same shape.

    Returns:
        ``[...]`` float32.
    """
    squared = (prediction.float() - truth.float()).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(squared.clamp(min=_LEAST_ERROR))


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each frame (Wang et al., IEEE Transactions on Image Processing 13(4), 2004).

    Gaussian window of 11x11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, range 1, variances of the population, only
    windows that lie in the picture as a whole; on each colour channel, then the mean over channels, as papers on
    novel views report it.

    Args:
        prediction: ``[..., C, H, W]`` in [0, 1].
        truth: The same shape.

    Returns:
        ``[...]`` float32, 1 for equal frames.

    Raises:
        InputError: The frames are smaller than the window.
    """
    height, width = truth.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}; use a larger size"
        )
    # In float64: a variance is a small difference of two large sums.
    x, y = prediction.double(), truth.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(dim=(-3, -2, -1)).float()


def _blur(x: Tensor) -> Tensor:
    """``[..., H, W]`` to ``[..., H - 10, W - 10]``; sums of shifted pictures, as a GPU's convolutions may round."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SSIM_SIGMA).square())
    for dim in (-1, -2):
        count = x.shape[dim] - SSIM_WINDOW + 1
        total = torch.zeros_like(x.narrow(dim, 0, count))
        for start, weight in enumerate((weights / weights.sum()).tolist()):
            total.add_(x.narrow(dim, start, count), alpha=weight)
        x = total
    return x
