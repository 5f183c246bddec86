"""VGGT as the model that predicts windows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.decoding import plausible_encoding
from gen3r_core.devices import memory_errors
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import homogeneous, invert_rigid
from gen3r_core.mapping.windows import Prediction
from gen3r_core.models.attention import AttentionKernel, kernel_preferred
from gen3r_core.models.vggt import VGGT

__all__ = ["VggtPredictor"]


class VggtPredictor:
    """Predicts windows with VGGT; features are its image encoder's patch tokens, pooled.

    Args:
        vggt: the network, on the device where it runs.
        name: which weights these are.
        attention: kernel.
    """

    def __init__(self, vggt: VGGT, name: str, *, attention: AttentionKernel | str = AttentionKernel.AUTO) -> None:
        self._vggt, self._name, self._attention = vggt, name, attention

    @property
    def name(self) -> str:
        """Which weights."""
        return self._name

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Predict from ``[n, H, W, 3]`` uint8 RGB; H and W multiples of the patch size.

        Raises:
            InputError: the size is not one.
            DeviceError: memory runs out, or the attention kernel cannot run here.
        """
        device = self._vggt.aggregator.camera_token.device
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
        with memory_errors(), kernel_preferred(self._attention, device):
            found = self._vggt(pixels[None], points=False)
            poses, intrinsics = decode_pose_encoding(
                plausible_encoding(found.pose_encoding[0].double()), (images.shape[1], images.shape[2])
            )
            features = self._features(pixels)
        return Prediction(
            depth=found.depth[0].cpu().numpy(),
            confidence=found.depth_confidence[0].cpu().numpy(),
            T_window_cam=invert_rigid(homogeneous(poses)).cpu().numpy(),
            intrinsics=intrinsics.double().cpu().numpy(),
            features=features.float().cpu().numpy(),
        )

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[n, 12 C]``: mean tokens of the cells of a grid of three rows and four columns.

        The encoder looks at each frame alone, so that a frame has the same features in every window. Cells keep
        where things are: a mean over the whole frame is nearly the same for any two views of one room.
        """
        from gen3r_core.models.vggt.aggregator import normalise_pixels

        grid = (pixels.shape[2] // self._vggt.patch_size, pixels.shape[3] // self._vggt.patch_size)
        tokens = self._vggt.aggregator.patch_embed(normalise_pixels(pixels)).patch_tokens.float()
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        return torch.nn.functional.adaptive_avg_pool2d(maps, (3, 4)).flatten(1)
