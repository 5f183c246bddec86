"""Bringing images to the size a network wants, and what that does to their intrinsics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import scale_intrinsics


@dataclass(frozen=True)
class ImageResize:
    """What was done to an image: stretched to ``scaled_size``, then ``to_size`` cut out of it.

    Attributes:
        from_size: ``(height, width)`` before, in pixels.
        scaled_size: ``(height, width)`` after stretching.
        corner: ``(top, left)`` of the cut in the stretched image.
        to_size: ``(height, width)`` of the result.
    """

    from_size: tuple[int, int]
    scaled_size: tuple[int, int]
    corner: tuple[int, int]
    to_size: tuple[int, int]

    def apply_to_intrinsics(self, intrinsics: Tensor) -> Tensor:
        """Intrinsics ``[..., 3, 3]`` in pixels of ``from_size``, made to fit the result, exactly."""
        return scale_intrinsics(intrinsics, self.from_size, self.scaled_size) - self._shift(intrinsics)

    def undo_on_intrinsics(self, intrinsics: Tensor) -> Tensor:
        """The inverse: ``[..., 3, 3]`` in pixels of ``to_size`` to pixels of ``from_size``."""
        return scale_intrinsics(intrinsics + self._shift(intrinsics), self.scaled_size, self.from_size)

    def _shift(self, like: Tensor) -> Tensor:
        top, left = self.corner
        return torch.tensor([[0, 0, left], [0, 0, top], [0, 0, 0]], dtype=like.dtype, device=like.device)


def resize_and_crop(images: Tensor, size: tuple[int, int]) -> tuple[Tensor, ImageResize]:
    """Scales images until they cover a size, then cuts out the centre.

    The scaled size is rounded to whole pixels; bilinear with antialiasing, as Gen3R prepares its
    images (arXiv 2601.04090, public code). An odd surplus leaves one pixel more at bottom or right.

    Args:
        images: ``[N, 3, H, W]`` float in [0, 1].
        size: ``(height, width)`` wanted.

    Returns:
        ``[N, 3, height, width]`` in the dtype and on the device of the images, and what was done.

    Raises:
        InputError: if images or size have the wrong shape.
    """
    from_size = _image_size(images)
    _check_target(size)
    scale = max(size[0] / from_size[0], size[1] / from_size[1])
    scaled_size = (max(size[0], round(from_size[0] * scale)), max(size[1], round(from_size[1] * scale)))
    corner = ((scaled_size[0] - size[0]) // 2, (scaled_size[1] - size[1]) // 2)
    resized = center_crop(stretch(images, scaled_size), size)
    return resized, ImageResize(from_size, scaled_size, corner, size)


def center_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts out the centre of images; a view, not a copy.

    Args:
        images: ``[N, C, H, W]``, any dtype.
        size: ``(height, width)`` wanted, at most ``(H, W)``.

    Returns:
        ``[N, C, height, width]``. An odd surplus leaves one pixel more at bottom or right.

    Raises:
        InputError: if the images have another rank or are smaller than the size.
    """
    if images.ndim != 4:
        raise InputError(f"images must have shape [N, C, H, W], got {tuple(images.shape)}")
    _check_target(size)
    height, width = images.shape[2:]
    if size[0] > height or size[1] > width:
        raise InputError(
            f"cannot cut {tuple(size)} out of images of {(height, width)} (height, width); resize them first"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]


def fit_to_multiple(images: Tensor, multiple: int = 14, *, longest: int | None = None) -> tuple[Tensor, ImageResize]:
    """Stretches images so that both sides are multiples of a patch size, nothing cut off.

    The aspect ratio is kept but for the rounding to the nearest multiple of either side, which
    the returned transform accounts for in the intrinsics.

    Args:
        images: ``[N, 3, H, W]`` float in [0, 1].
        multiple: patch size in pixels (14 for VGGT).
        longest: length that the longer side shall have, in pixels, before rounding; VGGT was
            trained with 518. None keeps the size, but for the rounding.

    Returns:
        ``[N, 3, H', W']`` in the dtype and on the device of the images, and what was done.

    Raises:
        InputError: if images have the wrong shape, or a number is not positive.
    """
    from_size = _image_size(images)
    if multiple < 1 or (longest is not None and longest < multiple):
        raise InputError(f"images cannot be fitted to multiples of {multiple} with a longest side of {longest}")
    scale = 1.0 if longest is None else longest / max(from_size)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in from_size)
    return stretch(images, (height, width)), ImageResize(from_size, (height, width), (0, 0), (height, width))


def stretch(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[N, 3, H, W]`` float in [0, 1] at ``(height, width)``, averaged where they get smaller."""
    if tuple(images.shape[2:]) == size:
        return images
    # Resampled in float32: half precision has no antialiased kernel on the CPU and would lose two bits.
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized.to(images.dtype)


def _image_size(images: Tensor) -> tuple[int, int]:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(f"images must have shape [N, 3, H, W] with at least one pixel, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise InputError(f"images must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255")
    return int(images.shape[2]), int(images.shape[3])


def _check_target(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise InputError(f"image sizes are (height, width) in pixels, both positive, got {tuple(size)}")
