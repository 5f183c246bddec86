"""From VGGT's predictions to a scene: cameras made plausible, depth unprojected on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.conditioning import Task
from gen3r_core.execution.placement import Placement
from gen3r_core.execution.stages import run_stage
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import compose, homogeneous, invert_rigid
from gen3r_core.geometry.unprojection import depth_mask, unproject_depth
from gen3r_core.geometry_source import GeometrySource
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.vggt import VGGT, VGGTPrediction
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.models.video_vae import decode_video
from gen3r_core.progress import JobMonitor
from gen3r_core.scene import CameraPath, Scene

SMALLEST_FOV = 1e-3
"""Radians; predicted fields of view are kept this far from 0 and from a half turn."""


def plausible_encoding(encoding: Tensor) -> Tensor:
    """Pose encoding whose fields of view give finite, positive focal lengths (the head may say 0).

    Args:
        encoding: ``[..., 9]`` translation, quaternion xyzw, vertical and horizontal field of view in radians.

    Returns:
        ``[..., 9]``, dtype and device of the input.
    """
    fov = encoding[..., 7:].clamp(SMALLEST_FOV, math.pi - SMALLEST_FOV)
    return torch.cat((encoding[..., :7], fov), dim=-1)


def decode_geometry(
    placement: Placement,
    adapter: GeometryAdapter,
    vggt: VGGT,
    latents: Tensor,
    size: tuple[int, int],
    *,
    points: bool = False,
) -> VGGTPrediction:
    """Cameras and depth, and points where asked for, from the geometry half of one clip's latents.

    Args:
        placement: of both networks.
        adapter: from latents to tokens.
        vggt: whose heads read the tokens.
        latents: ``[1, C, f, h, w]`` float32.
        size: ``(height, width)`` in pixels.
        points: run the point head too.
    """
    layers = _layers(placement, adapter, vggt, latents)
    with placement.using(vggt=vggt):
        return vggt.decode(layers, size, frames_per_chunk=placement.level.frames_per_chunk, points=points)


def decode_cameras(
    placement: Placement, adapter: GeometryAdapter, vggt: VGGT, latents: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Of :func:`decode_geometry` only the pose encoding ``[1, F, 9]`` and the depth ``[1, F, H, W]``, float32."""
    layers = _layers(placement, adapter, vggt, latents)
    with placement.using(vggt=vggt):
        depth, _ = vggt.predict_depth(layers, size, frames_per_chunk=placement.level.frames_per_chunk)
        return vggt.predict_cameras(layers)[-1], depth


def _layers(placement: Placement, adapter: GeometryAdapter, vggt: VGGT, latents: Tensor) -> list[Tensor]:
    """What VGGT's heads read, from the geometry half of one clip's latents."""
    with placement.using(geometry_adapter=adapter):
        tokens = adapter.decode(latents)
    return unpack_tokens(tokens, vggt.special_tokens, num_layers=len(vggt.config.layers))


def decode_colors(placement: Placement, video_vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """``[F, H, W, 3]`` float32 RGB in [0, 1] from the appearance half ``[1, C, f, h, w]`` of one clip's latents."""
    with placement.using(video_vae=video_vae):
        video = decode_video(video_vae, latents)[0]
    return (video / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)


def predict_geometry(placement: Placement, vggt: VGGT, images: Tensor, *, points: bool = False) -> VGGTPrediction:
    """Cameras and depth, and points where asked for, of the images ``[N, 3, H, W]`` themselves."""
    chunk = placement.level.frames_per_chunk
    with placement.using(vggt=vggt):
        prediction: VGGTPrediction = vggt(images[None], frames_per_chunk=chunk, points=points)
    return prediction


def fit_to_latents(prediction: VGGTPrediction, encoding: Tensor, depth: Tensor) -> VGGTPrediction:
    """What VGGT says of frames, with the cameras and in the unit of the latents that the frames were generated with.

    VGGT has a unit of its own for each clip, and its cameras know nothing of the path that was asked for; those of the
    latents follow it. One scale brings the depth to the latents' unit: the median, over all pixels, of the latents'
    depth over VGGT's. Each frame's points, if there are any, keep their place before the camera.

    Args:
        prediction: of the frames, one clip.
        encoding: ``[1, F, 9]`` float32 pose encoding of the latents, as :class:`VGGTPrediction` has it.
        depth: ``[1, F, H, W]`` float32 depth of the latents, scene units.

    Returns:
        the prediction in the latents' world and scene units.
    """
    size = (int(depth.shape[-2]), int(depth.shape[-1]))
    scale = (depth / prediction.depth).nanmedian()
    own, _ = decode_pose_encoding(plausible_encoding(prediction.pose_encoding), size)
    wanted, _ = decode_pose_encoding(plausible_encoding(encoding), size)
    T_own_world = homogeneous(own)
    T_own_world = torch.cat([T_own_world[..., :3, :] * scale, T_own_world[..., 3:, :]], dim=-2)
    moves = compose(invert_rigid(wanted), T_own_world)
    points = None if prediction.points is None else _moved(prediction.points, moves)
    return VGGTPrediction(
        encoding,
        prediction.depth * scale,
        prediction.depth_confidence,
        points,
        prediction.points_confidence,
        (encoding,),
    )


def _moved(points: Tensor, moves: Tensor) -> Tensor:
    """Points ``[..., H, W, 3]`` of frames, moved by one ``[..., 4, 4]`` a frame."""
    moved = torch.empty_like(points)
    for axis in range(3):  # sums of products: a matrix product may run in TF32
        row = moves[..., axis, None, None, :]
        moved[..., axis] = (points * row[..., :3]).sum(dim=-1) + row[..., 3]
    return moved


@dataclass(frozen=True, eq=False)
class Decoder:
    """From the latents of a clip to its scene.

    Attributes:
        placement: of the networks.
        video_vae: from the appearance half to colours.
        adapter: from the geometry half to VGGT's tokens.
        vggt: whose heads read the tokens; for geometry of the frames it also reads these.
        source: where the geometry comes from.
        limit_depth: see :func:`gen3r_core.geometry.unprojection.depth_mask`.
        point_map: whether the point head is run.
    """

    placement: Placement
    video_vae: AutoencoderKLWan
    adapter: GeometryAdapter
    vggt: VGGT
    source: GeometrySource
    limit_depth: bool
    point_map: bool = False

    def scene(
        self,
        latents: Tensor,
        images: Tensor,
        task: Task,
        cameras: str | CameraPath,
        monitor: JobMonitor,
    ) -> Scene:
        """Right half to tokens, cameras and depth; left half to colours, which VGGT may read.

        Args:
            latents: ``[1, C, f, h, 2w]`` float32.
            images: ``[n, 3, H, W]`` float32 in [0, 1], those that were given, of the size of the frames.
            task: says which frames they are.
            cameras: that were asked for. "free" ones leave the latents nothing that VGGT does not see in the frames, so
                geometry of the frames is then VGGT's alone.
            monitor: told of the stages.
        """
        appearance, geometry = latents.chunk(2, dim=-1)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        stage = partial(run_stage, self.placement, monitor)
        half = (self.placement, self.adapter, self.vggt, geometry, size)
        to_colors = partial(decode_colors, self.placement, self.video_vae, appearance)
        if self.source is GeometrySource.LATENTS:
            prediction = stage("geometry", partial(decode_geometry, *half, points=self.point_map))
            colors = stage("video_decode", to_colors)
        else:
            guide = None if cameras == "free" else stage("geometry", partial(decode_cameras, *half))
            colors = stage("video_decode", to_colors)
            prediction = stage("vggt", partial(self._read, colors, images, task, guide))
        observed = torch.zeros(len(colors), dtype=torch.bool, device=colors.device)
        observed[task.known_frames(len(colors))] = True
        scale = cameras.metres_per_unit if isinstance(cameras, CameraPath) else None
        return assemble_scene(prediction, colors, observed, limit_depth=self.limit_depth, metres_per_unit=scale)

    def _read(self, colors: Tensor, images: Tensor, task: Task, guide: tuple[Tensor, Tensor] | None) -> VGGTPrediction:
        """VGGT on all frames, given ones as they were given, not as they were decoded."""
        frames = colors.permute(0, 3, 1, 2).contiguous()
        for place, frame in enumerate(task.known_frames(len(frames))):
            frames[frame] = images[place]
        prediction = predict_geometry(self.placement, self.vggt, frames, points=self.point_map)
        return prediction if guide is None else fit_to_latents(prediction, *guide)


def assemble_scene(
    prediction: VGGTPrediction,
    colors: Tensor,
    observed: Tensor,
    *,
    limit_depth: bool,
    metres_per_unit: float | None = None,
) -> Scene:
    """The first clip of a prediction as a scene, in float32 on its device.

    Args:
        prediction: of VGGT's heads; clip 0 is taken. Without points the scene has no point map.
        colors: ``[F, H, W, 3]`` float32 RGB in [0, 1].
        observed: ``[F]`` bool, the frames that were given as images.
        limit_depth: see :func:`gen3r_core.geometry.unprojection.depth_mask`.
        metres_per_unit: metres in one scene unit, None when unknown.
    """
    size = (int(colors.shape[1]), int(colors.shape[2]))
    poses, intrinsics = decode_pose_encoding(plausible_encoding(prediction.pose_encoding[0]), size)
    depth = prediction.depth[0]
    return Scene(
        colors=colors,
        depth=depth,
        depth_confidence=prediction.depth_confidence[0],
        points=unproject_depth(depth, poses, intrinsics),
        point_map=None if prediction.points is None else prediction.points[0],
        point_map_confidence=None if prediction.points_confidence is None else prediction.points_confidence[0],
        valid=depth_mask(depth, limit_range=limit_depth),
        intrinsics=intrinsics,
        T_cam_world=homogeneous(poses),
        observed=observed,
        metres_per_unit=metres_per_unit,
    )
