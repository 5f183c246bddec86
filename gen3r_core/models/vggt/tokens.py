"""Packing VGGT's tokens into the map that the geometry adapter compresses, and back.

Gen3R (arXiv 2601.04090) treats the tokens of the kept VGGT blocks as the channels of a video: one
group of ``D`` channels per block, and a last group with the camera token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gen3r_core.errors import InputError


def pack_tokens(tokens: Sequence[Tensor], grid: tuple[int, int], *, camera_tokens: Tensor | None = None) -> Tensor:
    """Lay out tokens as a video of feature maps.

    Args:
        tokens: ``n`` tensors ``[B, S, special + h * w, D]``, one per kept block, in order; camera token
            first, patches last and row by row.
        grid: ``(h, w)``, rows and columns of patches.
        camera_tokens: ``[B, S, D]`` to take in place of the camera tokens of ``tokens[-1]``, for
            networks whose last kept block is not the last one.

    Returns:
        ``[B, (n + 1) * D, S, h, w]``, dtype of ``tokens``: the ``n`` patch maps, then the camera token
        repeated over the grid.

    Raises:
        InputError: there are no tokens, or their shapes do not agree with each other, with ``grid``
            or with ``camera_tokens``.
    """
    check_tokens(tokens, grid)
    height, width = grid
    cameras = tokens[-1][:, :, 0] if camera_tokens is None else camera_tokens
    batch, frames, _, channels = tokens[-1].shape
    if cameras.shape != (batch, frames, channels):
        raise InputError(f"camera tokens must have shape {[batch, frames, channels]}, got {tuple(cameras.shape)}")
    maps = [torch.unflatten(layer[:, :, -height * width :].movedim(3, 1), 3, grid) for layer in tokens]
    everywhere = cameras.movedim(2, 1)[..., None, None].expand(-1, -1, -1, height, width)
    return torch.cat([*maps, everywhere], dim=1)


def unpack_tokens(token_map: Tensor, special_tokens: int = 5, *, num_layers: int = 4) -> list[Tensor]:
    """Undo :func:`pack_tokens` as far as the map allows.

    The camera group is averaged over the map (in float32) and stands for all special tokens of
    all blocks: the registers are not in the map.

    Args:
        token_map: ``[B, (num_layers + 1) * D, S, h, w]``, any floating dtype.
        special_tokens: tokens before the patches, camera token included.
        num_layers: number of blocks ``n`` in the map.

    Returns:
        ``n`` tensors ``[B, S, special_tokens + h * w, D]``, dtype of ``token_map``.

    Raises:
        InputError: ``token_map`` is not 5-dimensional, or its channels are no multiple of ``n + 1``.
    """
    if token_map.ndim != 5 or token_map.shape[1] % (num_layers + 1):
        raise InputError(
            f"a token map must have shape [batch, {num_layers + 1} * D, frames, rows, columns] "
            f"({num_layers} blocks and the camera token), got {tuple(token_map.shape)}"
        )
    *maps, everywhere = token_map.chunk(num_layers + 1, dim=1)
    camera = everywhere.mean(dim=(3, 4))  # torch sums half precision in float32
    special = camera.movedim(1, 2)[:, :, None].expand(-1, -1, special_tokens, -1)
    return [torch.cat([special, patches.flatten(3).movedim(1, 3)], dim=2) for patches in maps]


def check_tokens(tokens: Sequence[Tensor], grid: tuple[int, int]) -> None:
    """Check that token tensors agree with each other and hold a patch grid.

    Args:
        tokens: tensors ``[B, S, special + h * w, D]``.
        grid: ``(h, w)``, rows and columns of patches.

    Raises:
        InputError: they do not; the message gives the shapes.
    """
    shapes = [tuple(layer.shape) for layer in tokens]
    if not shapes or len(set(shapes)) > 1 or len(shapes[0]) != 4:
        raise InputError(f"token tensors must all have one shape [batch, frames, tokens, channels], got {shapes}")
    patches = grid[0] * grid[1]
    if shapes[0][2] <= patches:
        raise InputError(
            f"token tensors of shape {shapes[0]} hold {shapes[0][2]} tokens a frame, too few for a camera token and "
            f"{grid[0]}x{grid[1]} patches; check the image size that goes with them"
        )
