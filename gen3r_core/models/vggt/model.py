"""VGGT: cameras, depth and points of a scene from its images, in one pass (arXiv 2503.11651)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.aggregator import Aggregator
from gen3r_core.models.vggt.camera_head import CameraHead
from gen3r_core.models.vggt.config import VGGTConfig
from gen3r_core.models.vggt.dense_head import DenseActivation, DenseHead
from gen3r_core.models.vggt.dinov2 import patch_grid
from gen3r_core.models.vggt.tokens import check_tokens


@dataclass(frozen=True)
class VGGTPrediction:
    """What VGGT says about ``S`` frames in each of ``B`` scenes; all float32.

    The world is the camera of the first frame; lengths are in scene units; OpenCV axes.

    Attributes:
        pose_encoding: ``[B, S, 9]`` translation and quaternion xyzw (not normalised) of the
            world-to-camera pose, vertical and horizontal field of view in radians.
        depth: ``[B, S, H, W]`` depth along the camera's z.
        depth_confidence: ``[B, S, H, W]``, at least 1.
        points: ``[B, S, H, W, 3]`` in the world frame; None where the point head was not run.
        points_confidence: ``[B, S, H, W]``, at least 1; None with ``points``.
        pose_iterations: pose encodings after each refinement; the last is ``pose_encoding``.
    """

    pose_encoding: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None
    points_confidence: Tensor | None
    pose_iterations: tuple[Tensor, ...]


class VGGT(nn.Module):
    """The network without its track head.

    It runs in the dtype of its weights. Aggregator and heads may have different dtypes: each
    casts what it is given. Pixels are normalised, positions made and predictions activated in
    float32. No state besides the parameters.

    Args:
        config: sizes of the network; full size where left out.
    """

    def __init__(self, config: VGGTConfig | None = None) -> None:
        super().__init__()
        self.config = VGGTConfig() if config is None else config
        dim, patch_size, dense = 2 * self.config.embed_dim, self.config.patch_size, self.config.dense_head
        self.aggregator = Aggregator(self.config)
        self.camera_head = CameraHead(dim, self.config.camera_head)
        self.point_head = DenseHead(dim, 3, DenseActivation.INVERSE_LOG, dense, patch_size)
        self.depth_head = DenseHead(dim, 1, DenseActivation.EXP, dense, patch_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.config.patch_size

    @property
    def special_tokens(self) -> int:
        """Tokens before the patches of a frame: one camera token and the registers."""
        return self.config.special_tokens

    def aggregate(self, images: Tensor, *, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Turn the frames of a scene into tokens.

        Args:
            images: ``[B, S, 3, H, W]`` RGB in [0, 1], any floating dtype; ``H`` and ``W`` multiples of
                the patch size. The first frame defines the world.
            layers: blocks to keep in place of ``config.layers``, counted from 0.

        Returns:
            One ``[B, S, special + P, 2C]`` per kept block, dtype of the weights.

        Raises:
            InputError: the shape or dtype of ``images``, or an entry of ``layers``, cannot be used.
        """
        tokens: list[Tensor] = self.aggregator(images, layers)
        return tokens

    def predict_cameras(self, tokens: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run the camera head alone.

        Args:
            tokens: as :meth:`aggregate` returns them; only the camera tokens of the last are read.

        Returns:
            One ``[B, S, 9]`` float32 per refinement, the last being the prediction; channels as
            in :class:`VGGTPrediction`.

        Raises:
            InputError: there are no tokens, or the last are not of shape ``[B, S, N, 2C]``.
        """
        if not tokens or tokens[-1].ndim != 4 or tokens[-1].shape[-1] != 2 * self.config.embed_dim:
            raise InputError(
                f"the camera head needs tokens of shape [batch, frames, tokens, {2 * self.config.embed_dim}], "
                f"got {tuple(tokens[-1].shape) if tokens else 'none'}"
            )
        steps: tuple[Tensor, ...] = self.camera_head(tokens[-1])
        return steps

    def predict_depth(
        self, tokens: Sequence[Tensor], image_size: tuple[int, int], *, frames_per_chunk: int = 8
    ) -> tuple[Tensor, Tensor]:
        """Run the depth head alone.

        Args:
            tokens: as :meth:`aggregate` returns them.
            image_size: ``(height, width)`` of the images behind the tokens.
            frames_per_chunk: frames that go through the head at a time.

        Returns:
            Depth and its confidence, both ``[B, S, H, W]`` float32.

        Raises:
            InputError: tokens, image size and network do not fit together.
        """
        self._check_tokens(tokens, image_size)
        depth, confidence = self.depth_head(tokens, image_size, frames_per_chunk=frames_per_chunk)
        return depth.squeeze(-1), confidence

    def predict_points(
        self, tokens: Sequence[Tensor], image_size: tuple[int, int], *, frames_per_chunk: int = 8
    ) -> tuple[Tensor, Tensor]:
        """Run the point head alone.

        Args:
            tokens: as :meth:`aggregate` returns them.
            image_size: ``(height, width)`` of the images behind the tokens.
            frames_per_chunk: frames that go through the head at a time.

        Returns:
            Points ``[B, S, H, W, 3]`` and their confidence ``[B, S, H, W]``, float32.

        Raises:
            InputError: tokens, image size and network do not fit together.
        """
        self._check_tokens(tokens, image_size)
        points, confidence = self.point_head(tokens, image_size, frames_per_chunk=frames_per_chunk)
        return points, confidence

    def decode(
        self, tokens: Sequence[Tensor], image_size: tuple[int, int], *, frames_per_chunk: int = 8, points: bool = True
    ) -> VGGTPrediction:
        """Run the three heads, or two.

        Args:
            tokens: as :meth:`aggregate` returns them, or as
                :func:`~gen3r_core.models.vggt.tokens.unpack_tokens` restores them.
            image_size: ``(height, width)`` of the images behind the tokens.
            frames_per_chunk: frames that go through a dense head at a time.
            points: run the point head too, which costs as much as the depth head.

        Returns:
            Cameras, depth and points.

        Raises:
            InputError: tokens, image size and network do not fit together.
        """
        self._check_tokens(tokens, image_size)
        steps = self.predict_cameras(tokens)
        depth, depth_confidence = self.predict_depth(tokens, image_size, frames_per_chunk=frames_per_chunk)
        if not points:
            return VGGTPrediction(steps[-1], depth, depth_confidence, None, None, steps)
        places, confidence = self.predict_points(tokens, image_size, frames_per_chunk=frames_per_chunk)
        return VGGTPrediction(steps[-1], depth, depth_confidence, places, confidence, steps)

    def forward(self, images: Tensor, *, frames_per_chunk: int = 8, points: bool = True) -> VGGTPrediction:
        """Predict cameras, depth and points from images.

        Args:
            images: as in :meth:`aggregate`.
            frames_per_chunk: frames that go through a dense head at a time.
            points: as in :meth:`decode`.

        Returns:
            Cameras, depth and points.

        Raises:
            InputError: the images cannot be used.
        """
        tokens = self.aggregate(images)
        size = (images.shape[-2], images.shape[-1])
        return self.decode(tokens, size, frames_per_chunk=frames_per_chunk, points=points)

    def _check_tokens(self, tokens: Sequence[Tensor], image_size: tuple[int, int]) -> None:
        grid, config = patch_grid(image_size, self.patch_size), self.config
        check_tokens(tokens, grid)
        wanted = (config.special_tokens + grid[0] * grid[1], 2 * config.embed_dim)
        if len(tokens) != len(config.layers) or tokens[0].shape[2:] != wanted:
            raise InputError(
                f"the heads need {len(config.layers)} token tensors of shape [batch, frames, {wanted[0]}, {wanted[1]}] "
                f"for {image_size[0]}x{image_size[1]} images (height x width), got {len(tokens)} of shape "
                f"{tuple(tokens[0].shape)}"
            )
