"""The worker's jobs: from requests to arrays, by the ordinary pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3r_core.conditioning import Task
from gen3r_core.devices import memory_errors
from gen3r_core.errors import CancelledError
from gen3r_core.geometry.images import fit_to_multiple
from gen3r_core.geometry.rigid import invert_rigid, relative_to_first
from gen3r_core.geometry.unprojection import percentiles, unproject_depth
from gen3r_core.jobs import Job, Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import JobMonitor, Progress
from gen3r_core.reconstruction.anchoring import AnchorOptions, anchor_depth
from gen3r_core.reconstruction.cloud import PointCloud
from gen3r_core.scene import CameraPath, Scene
from gen3r_core.serving.requests import CloudOptions, PredictRequest, ReconstructRequest, Request
from gen3r_core.serving.stops import StopPoints, vggt_blocks, vggt_steps

Report = Callable[[str, int, int], None]
"""Called with stage, steps done, and steps of the stage."""

PIXEL_CENTRE = 0.5
"""Of pixel 0; unprojection counts from whole numbers (see :func:`unproject_depth`)."""


@dataclass(frozen=True)
class Made:
    """What a job made.

    Attributes:
        arrays: of a :class:`~gen3r_core.serving.results.SceneResult`, by name.
        seconds: wall time by stage.
        metres_per_unit: of the scene.
        not_fitted: why the depth was not fitted to the poses that came with the request; empty if it was, or none came.
    """

    arrays: dict[str, NDArray[Any]]
    seconds: dict[str, float]
    metres_per_unit: float | None
    not_fitted: str = ""


class Engine:
    """Does one job after the other.

    Args:
        pipeline: gets hooks, so that jobs can be stopped within a step.
    """

    def __init__(self, pipeline: Gen3RPipeline) -> None:
        self.pipeline = pipeline
        self._points = StopPoints(pipeline)

    def run(self, request: Request, wanted: Callable[[], bool], report: Report) -> Made:
        """Do a job.

        Args:
            request: what to do.
            wanted: asked at every block of the networks; False stops the job.
            report: told after each step.

        Raises:
            CancelledError: it was stopped; the message says during what.
            InputError: the request cannot be served.
            DeviceError: memory runs out, or the attention kernel cannot run here.
        """
        place = "preparation"

        def passing(_block: nn.Module) -> None:
            if not wanted():
                raise CancelledError(f"cancelled during {place}")

        def told(progress: Progress) -> bool:
            nonlocal place
            place = f"{progress.stage} after step {progress.step} of {progress.total}"
            report(progress.stage, progress.step, progress.total)
            return wanted()

        monitor, not_fitted = JobMonitor(told, self.pipeline.device), ""
        if isinstance(request, PredictRequest):
            with self._points.watch(passing):
                scene, given, predicted = self._predict(request, monitor), None, None
        else:
            steps = _VGGTSteps(self.pipeline, len(request.images), told, passing)
            monitor = JobMonitor(steps.told, self.pipeline.device)
            with self._points.watch(steps.passing):
                scene, given = self._reconstruct(request, monitor)
            predicted = scene.T_world_cam
            if request.T_world_cam is not None and given is not None:
                with memory_errors():
                    scene, not_fitted = anchor_scene(scene, given, torch.tensor(request.T_world_cam), monitor)
        start = time.perf_counter()
        with memory_errors():
            arrays = gather(scene, given, request.cloud, predicted)
        seconds = {**monitor.seconds, "gather": time.perf_counter() - start}
        return Made(arrays, seconds, scene.metres_per_unit, not_fitted)

    def _reconstruct(self, request: ReconstructRequest, monitor: JobMonitor) -> tuple[Scene, Tensor | None]:
        longest = request.longest or max(self.pipeline.image_size)
        with memory_errors():
            images = _floats(request, self.pipeline.device)
            images, resized = fit_to_multiple(images, self.pipeline.vggt.patch_size, longest=longest)
        scene = self.pipeline.reconstruct(
            images, limit_depth=request.limit_depth, attention=request.attention, monitor=monitor
        )
        given = None
        if request.intrinsics is not None:
            given = resized.apply_to_intrinsics(torch.tensor(request.intrinsics)).to(scene.depth)
        return scene, given

    def _predict(self, request: PredictRequest, monitor: JobMonitor) -> Scene:
        path = request.cameras
        cameras: str | CameraPath
        if isinstance(path, str):
            cameras = path
        else:
            poses, intrinsics = torch.tensor(path.T_world_cam), torch.tensor(path.intrinsics)
            cameras = CameraPath(poses, intrinsics, path.image_size, path.metres_per_unit)
        images = _floats(request, torch.device("cpu"))
        job = Job(images, Task(request.task), request.prompt, cameras, request.seed)
        options = {own.name: getattr(request.options, own.name) for own in fields(request.options)}
        return self.pipeline.generate(job, Sampling(**options), monitor=monitor)


class _VGGTSteps:
    """Progress of a feed-forward pass by its blocks, where the pipeline knows only start and end."""

    def __init__(
        self,
        pipeline: Gen3RPipeline,
        frames: int,
        told: Callable[[Progress], bool],
        passing: Callable[[nn.Module], None],
    ) -> None:
        self._blocks = vggt_blocks(pipeline.vggt)
        self._total = vggt_steps(pipeline.vggt, frames, pipeline.placement.level.frames_per_chunk)
        self._told, self._passing = told, passing
        self._begun = 0

    def told(self, progress: Progress) -> bool:
        """In place of the pipeline's one step; other stages pass."""
        if progress.stage != "vggt":
            return self._told(progress)
        return self._told(Progress(progress.stage, self._total * progress.step // progress.total, self._total))

    def passing(self, block: nn.Module) -> None:
        """At the start of a block all before it are done."""
        self._passing(block)
        if block in self._blocks:
            self._begun += 1
            if self._begun > 1:
                self._told(Progress("vggt", self._begun - 1, self._total))


def anchor_scene(scene: Scene, given: Tensor, T_world_cam: Tensor, monitor: JobMonitor) -> tuple[Scene, str]:
    """A reconstruction with its depth fitted to known poses; as it was, where the images do not allow that.

    Args:
        scene: of the pipeline.
        given: ``[F, 3, 3]`` true intrinsics in pixels of the scene's views, centres at +0.5.
        T_world_cam: ``[F, 4, 4]`` float64 metres.
        monitor: told of the stage "align"; may cancel.

    Returns:
        a scene whose units are metres over ``metres_per_unit``, and whose valid pixels agree with other views; and
        why the images do not allow it, empty if they do.
    """
    known, options = T_world_cam.to(scene.depth.device), AnchorOptions()
    with monitor.stage("align", options.steps):
        found = anchor_depth(
            scene.colors.permute(0, 3, 1, 2), scene.depth, given, known, options,
            report=lambda done, steps: monitor.report("align", done, steps),
        )  # fmt: skip
    if found.reason:
        return scene, found.reason
    T_cam_world = invert_rigid(relative_to_first(known))
    T_cam_world[:, :3, 3] /= found.metres_per_unit
    fitted = replace(
        scene,
        depth=found.depth / found.metres_per_unit,
        valid=scene.valid & (found.agreeing >= found.needed),
        T_cam_world=T_cam_world.float(),
        metres_per_unit=found.metres_per_unit,
    )
    return fitted, ""


def gather(
    scene: Scene, given: Tensor | None, options: CloudOptions, predicted: Tensor | None = None
) -> dict[str, NDArray[Any]]:
    """A scene as numpy arrays in the world of its first camera, and the points that are chosen of it.

    Args:
        scene: of the pipeline.
        given: ``[F, 3, 3]`` intrinsics in pixels of the scene's views, centres at +0.5, in place of the predicted.
        options: which points.
        predicted: ``[F, 4, 4]`` the model's own camera-to-world poses, where the scene has others; None where not.

    Returns:
        the arrays of a :class:`~gen3r_core.serving.results.SceneResult`, by name.
    """
    poses = relative_to_first(scene.T_world_cam)
    intrinsics = scene.intrinsics
    if given is not None:
        intrinsics = given.clone()
        intrinsics[:, :2, 2] -= PIXEL_CENTRE
    points = unproject_depth(scene.depth, invert_rigid(poses), intrinsics)
    chosen = choose_pixels(scene.valid & torch.isfinite(points).all(dim=-1), scene.depth_confidence, options)
    cloud = PointCloud.from_maps(points, scene.colors, chosen)
    tensors = {
        "images": _bytes(scene.colors),
        "depth": scene.depth,
        "depth_confidence": scene.depth_confidence,
        "valid": scene.valid,
        "T_world_cam": poses,
        "predicted_T_world_cam": poses if predicted is None else relative_to_first(predicted),
        "intrinsics": scene.intrinsics if given is None else given,
        "predicted_intrinsics": scene.intrinsics,
        "observed": scene.observed,
        "point_confidence": scene.depth_confidence[chosen],
        "point_view": chosen.nonzero()[:, 0].int(),
    }
    arrays: dict[str, NDArray[Any]] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["points"] = cloud.points.astype(np.float32)
    arrays["point_colors"] = np.rint(cloud.colors * 255).astype(np.uint8)
    return arrays


def choose_pixels(valid: Tensor, confidence: Tensor, options: CloudOptions) -> Tensor:
    """The pixels that become points: valid, sure enough, and not too many.

    Args:
        valid: ``[F, H, W]`` bool.
        confidence: ``[F, H, W]`` float.
        options: limits.

    Returns:
        ``[F, H, W]`` bool, at most ``options.max_points`` True.
    """
    chosen = valid & (confidence >= options.min_confidence)
    if options.drop_percent and bool(chosen.any()):
        (limit,) = percentiles(confidence[chosen], (options.drop_percent,))
        chosen &= confidence >= limit
    index = chosen.flatten().nonzero().flatten()
    if len(index) > options.max_points:
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[: options.max_points]
        chosen = torch.zeros_like(chosen)
        chosen.view(-1)[index[order.to(index.device)]] = True
    return chosen


def _bytes(colors: Tensor) -> Tensor:
    return (colors * 255).round().clamp(0, 255).byte()


def _floats(request: Request, device: torch.device) -> Tensor:
    """``[N, 3, H, W]`` float32 in [0, 1] on a device, where the bytes go first: they are fewer."""
    images = torch.from_numpy(np.asarray(request.images)).to(device)
    return images.permute(0, 3, 1, 2).float() / 255
