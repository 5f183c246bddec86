"""What the transformer is trained on: clips as latents of both halves, and everything they are conditioned on.

Encoding a clip runs VGGT, the geometry adapter and the video VAE, and costs far more than a step of the
transformer. An :class:`EncodedClips` holds all that a step needs, so that it can be made once and used often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3r_core.conditioning import Task, control_video, fold_time
from gen3r_core.decoding import plausible_encoding
from gen3r_core.geometry.cameras import decode_pose_encoding, pluecker_rays
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import PIXEL_MEAN, PIXEL_STD, ImageEncoder, quantize_like_upstream
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.scene_units import metres_per_unit, relative_poses
from gen3r_core.training.teachers import ClipTokens, Teachers, adapter_posterior, channel_constants, mixed_precision

__all__ = ["CONTROLLED", "ClipEncoder", "EncodedClips", "clip_rays"]

CONTROLLED = (Task.ONE_VIEW, Task.TWO_VIEW)
"""Tasks with a control video of their own; that of allview is the clip itself."""


@dataclass(frozen=True)
class EncodedClips:
    """B clips of F frames of H by W pixels; latents are ``f = (F + 3) / 4`` by ``h = H / 8`` by ``w = W / 8``.

    Latents are posteriors: mean and log variance along dimension 1 (2 for ``control``), float32.

    Attributes:
        appearance: ``[B, 2, 16, f, h, w]`` of the clip.
        geometry: ``[B, 2, 16, f, h, w]`` of VGGT's tokens.
        control: ``[B, 2 tasks, 2, 16, f, h, w]`` of the control videos of 1view and 2view.
        poses: ``[B, F, 4, 4]`` camera to first camera, lengths in scene units.
        intrinsics: ``[B, F, 3, 3]`` pixels.
        has_cameras: ``[B]`` bool; without, poses and intrinsics mean nothing.
        metres_per_unit: ``[B]``, 1 where unknown.
        image: first frames, as the image encoder's tokens ``[B, N, C]`` or, where it is trained, as what it takes
            ``[B, 3, side, side]``.
        text: captions, as embeddings ``[B, L, C]`` or, where the text encoder is trained, as ids ``[B, L]``.
        text_mask: ``[B, L]`` bool, the tokens that are not padding.
    """

    appearance: Tensor
    geometry: Tensor
    control: Tensor
    poses: Tensor
    intrinsics: Tensor
    has_cameras: Tensor
    metres_per_unit: Tensor
    image: Tensor
    text: Tensor
    text_mask: Tensor

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.appearance)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return 8 * self.appearance.shape[-2], 8 * self.appearance.shape[-1]

    def map(self, function: Callable[[Tensor], Tensor]) -> EncodedClips:
        """The same function applied to every tensor."""
        return EncodedClips(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def write(self, place: slice, clips: EncodedClips) -> None:
        """Put clips in place of some of these."""
        for field in fields(self):
            getattr(self, field.name)[place] = getattr(clips, field.name)

    @staticmethod
    def concatenate(parts: Sequence[EncodedClips]) -> EncodedClips:
        """One after the other."""
        names = [field.name for field in fields(EncodedClips)]
        return EncodedClips(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class ClipEncoder:
    """Runs the frozen networks on clips.

    Args:
        teachers: VGGT and the video VAE.
        adapter: the trained geometry adapter, frozen.
        image_encoder: its preprocessing is used, and where ``frozen_encoders`` its tower.
        text_encoder: used where ``frozen_encoders``.
        tokenizer: of the text encoder.
        text_len: text tokens of the transformer.
        frozen_encoders: text and image encoder are not trained: keep their output.
        camera_scale: "vggt" brings true camera paths (metres) to VGGT's units of each clip; "none" takes them as they
            are, for data whose poses already are in scene units.
        clips_at_a_time: clips that are encoded together.
    """

    def __init__(
        self,
        teachers: Teachers,
        adapter: GeometryAdapter,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        *,
        text_len: int,
        frozen_encoders: bool,
        camera_scale: str = "vggt",
        clips_at_a_time: int = 8,
    ) -> None:
        self.teachers, self.adapter, self.tokenizer = teachers, adapter, tokenizer
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.text_len, self.frozen_encoders = text_len, frozen_encoders
        self.camera_scale, self.clips_at_a_time = camera_scale, clips_at_a_time
        device = adapter.quant_conv.weight.device
        self._mean, self._std = channel_constants(adapter.config.latents_mean, adapter.config.latents_std, device)
        self._pixel_mean, self._pixel_std = (
            constants.squeeze(2) for constants in channel_constants(PIXEL_MEAN, PIXEL_STD, device)
        )

    @torch.no_grad()
    def encode(self, batch: ClipBatch) -> EncodedClips:
        """Everything that a training step needs of some clips.

        Raises:
            InputError: the clips do not have 4k+1 frames, or their size does not suit the networks.
        """
        step = self.clips_at_a_time
        with mixed_precision(batch.device):
            starts = range(0, len(batch), step)
            parts = [self._encode(_clips(batch, slice(start, start + step))) for start in starts]
        return EncodedClips.concatenate(parts)

    def _encode(self, batch: ClipBatch) -> EncodedClips:
        colors = batch.colors
        frames = colors.shape[1]
        tokens = self.teachers.tokens(colors)
        poses, intrinsics, has_cameras, scale = self._cameras(batch, tokens)
        mean, logvar = adapter_posterior(self.adapter, tokens.packed)
        known = [
            control_video(torch.stack([colors[:, index] for index in task.known_frames(frames)], dim=1), task, frames)
            for task in CONTROLLED
        ]
        videos = [(colors * 2 - 1).clamp(-1, 1).transpose(1, 2), *known]
        latents = [torch.stack(self.teachers.video_posterior(video), dim=1) for video in videos]
        text, text_mask = self.texts(batch.captions, batch.device)
        return EncodedClips(
            appearance=latents[0],
            geometry=torch.stack(((mean - self._mean) / self._std, logvar), dim=1),
            control=torch.stack(latents[1:], dim=1),
            poses=poses,
            intrinsics=intrinsics,
            has_cameras=has_cameras,
            metres_per_unit=scale,
            image=self._image(colors[:, 0]),
            text=text,
            text_mask=text_mask,
        )

    def _cameras(self, batch: ClipBatch, tokens: ClipTokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        clips, frames, device = len(batch), batch.colors.shape[1], batch.device
        scale = torch.ones(clips, device=device)
        if batch.T_world_cam is None or batch.intrinsics is None:
            identity = torch.eye(4, device=device).expand(clips, frames, 4, 4)
            return identity, identity[..., :3, :3], scale < 0, scale
        poses = relative_poses(batch.T_world_cam)
        if self.camera_scale == "vggt":
            scale = self.scale(batch, tokens)
            moved = poses[..., :3, 3:] / scale[:, None, None, None]
            poses = torch.cat((torch.cat((poses[..., :3, :3], moved), dim=-1), poses[..., 3:, :]), dim=-2)
        return poses, batch.intrinsics.float(), scale > 0, scale

    def scale(self, batch: ClipBatch, tokens: ClipTokens) -> Tensor:
        """Metres in one unit of VGGT's prediction for each of the clips ``[B]``, from its depth, or its cameras."""
        vggt = self.teachers.vggt
        depth, _ = vggt.predict_depth(tokens.layers, batch.size)
        encoding = plausible_encoding(vggt.predict_cameras(tokens.layers)[-1])
        T_cam_world, _ = decode_pose_encoding(encoding, batch.size)
        return metres_per_unit(depth, batch, homogeneous(T_cam_world))

    def _image(self, first: Tensor) -> Tensor:
        """As :meth:`ImageEncoder.preprocess` does, with constants that already lie on the device."""
        side = self.image_encoder.config.image_size
        images = quantize_like_upstream(first)
        pixels = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False) * 0.5 + 0.5
        pixels = (pixels - self._pixel_mean) / self._pixel_std
        return image_tokens(self.image_encoder, pixels) if self.frozen_encoders else pixels

    def texts(self, captions: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Captions as ids or embeddings, and which of them are no padding; see :class:`EncodedClips`."""
        ids = torch.full((len(captions), self.text_len), self.tokenizer.pad_id, dtype=torch.int64)
        mask = torch.zeros(len(captions), self.text_len, dtype=torch.bool)
        for row, caption in enumerate(captions):
            own, _ = self.tokenizer(caption, self.text_len)
            ids[row, : len(own)] = torch.tensor(own, dtype=torch.int64)
            mask[row, : len(own)] = True
        if device.type == "cuda":  # pragma: gpu-only
            ids, mask = ids.pin_memory(), mask.pin_memory()
        ids, mask = ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)
        return (text_embeddings(self.text_encoder, ids, mask) if self.frozen_encoders else ids), mask


def text_embeddings(encoder: TextEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings ``[B, L, C]`` of padded ids ``[B, L]``, zero where the mask is: as the pipeline pads them."""
    dtype = encoder.model.shared.weight.dtype
    # A mask to add to scores: transformers would ask the host whether one of zeros and ones masks anything.
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    hidden: Tensor = encoder(ids, scores[:, None, None, :])
    return hidden.float() * mask[..., None]


def image_tokens(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    """Tokens ``[B, N, C]`` of preprocessed images ``[B, 3, side, side]``."""
    tower = encoder.tower
    tokens: Tensor = tower(pixel_values=pixels.to(tower.embeddings.patch_embedding.weight.dtype)).last_hidden_state
    return tokens


def clip_rays(clips: EncodedClips, keep: Tensor) -> Tensor:
    """Plücker rays of one half, folded to latent frames; zeros for clips without cameras, as for free cameras.

    Args:
        clips: B clips.
        keep: ``[B]`` bool, those that get their cameras.

    Returns:
        ``[B, 24, f, H, W]`` float32.
    """
    batch = clips.poses.shape[:2]
    rays = pluecker_rays(clips.poses.flatten(0, 1), clips.intrinsics.flatten(0, 1), clips.size)
    kept = (keep & clips.has_cameras)[:, None, None, None, None]
    return fold_time(torch.where(kept, rays.unflatten(0, batch), torch.zeros((), device=rays.device)))


def _clips(batch: ClipBatch, part: slice) -> ClipBatch:
    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[part]

    return ClipBatch(
        batch.colors[part], cut(batch.depth), cut(batch.intrinsics), cut(batch.T_world_cam), batch.captions[part]
    )
