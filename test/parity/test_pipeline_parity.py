"""The whole pipeline against the golden kit, weights loaded from a published folder that the test writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import published_kit
import pytest
import torch

from gen3r_core.conditioning import LatentShape, Task, pack_cameras
from gen3r_core.execution.grid import speed_up
from gen3r_core.execution.levels import LEVELS
from gen3r_core.pipeline import SCENE_SCALE, Gen3RPipeline, Job, Noise, Sampling
from gen3r_core.scene import CameraPath, Scene

pytestmark = [pytest.mark.parity, golden.requires_golden]
LIMIT = 5e-5
MASK_PIXELS = 8
"""Masks come from percentile thresholds: a few pixels at the edge may differ."""

_CONSTRUCTORS = {
    "text_encoder": "text_encoder",
    "transformer": "transformer",
    "clip_image_encoder": "clip",
    "geo_adapter": "geo_adapter",
    "wan_vae": "wan_vae_inner",
    "vggt": "vggt",
}


def _cases() -> list[str]:
    names = golden.cases("pipeline_")
    found = [name for name in names if "task" in json.loads((golden.FOLDER / f"{name}.json").read_text())]
    return found or ["pipeline_absent"]


def _write_published(folder: Path, case: golden.GoldenCase) -> None:
    """The kit's weights as a published checkpoint folder."""
    weights = golden.load(Path(case.meta["weights_file"]).stem)
    for component, constructor in _CONSTRUCTORS.items():
        own = {k.partition("/")[2]: v for k, v in weights.weights.items() if k.startswith(f"{component}/")}
        published_kit.write_component(folder / component, weights.meta["constructors"][constructor], own)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(case.meta["scheduler"]))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Gen3RPipeline"}))


class Comparison:
    """Compares results with a case's outputs, which hold every n-th position of an axis."""

    def __init__(self, case: golden.GoldenCase) -> None:
        self.outputs = case.outputs
        self.strides = sorted({1, *map(int, re.findall(r"(\d+)th\b", " ".join(case.meta["about"])))})

    def subsample(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        for axis, (full, kept) in enumerate(zip(value.shape, like.shape, strict=True)):
            stride = next(n for n in self.strides if -(-full // n) == kept)
            value = value.index_select(axis, torch.arange(0, full, stride))
        return value

    def __call__(self, key: str, value: torch.Tensor) -> None:
        expected = self.outputs[key]
        golden.assert_close(self.subsample(value.cpu(), expected), expected, LIMIT)


def _initial_latents(case: golden.GoldenCase) -> torch.Tensor:
    """The case's own, or those of the case that stores them for all."""
    if "latents" in case.inputs:
        return case.inputs["latents"]
    others = (golden.load(name) for name in _cases())
    return next(other.inputs["latents"] for other in others if "latents" in other.inputs)


def _check_built_in_cameras(
    pipeline: Gen3RPipeline, name: str, images: torch.Tensor, shape: LatentShape, compare: Comparison
) -> None:
    tokens = pipeline.vggt.aggregate(images[None])
    compare("vggt_pose_enc", pipeline.vggt.predict_cameras(tokens)[-1])
    depth = pipeline.vggt.predict_depth(tokens, shape.size)[0]
    compare("vggt_depth", depth[..., None])
    compare("scene_scale", SCENE_SCALE * depth.median()[None])
    path = pipeline.built_in_cameras(name, images, shape)
    compare("c2ws", path.T_world_cam)
    compare("Ks", path.intrinsics)


def _on_host(scene: Scene) -> Scene:
    tensors = {name: value.cpu() for name, value in vars(scene).items() if isinstance(value, torch.Tensor)}
    return replace(scene, **tensors)


def _check_scene(scene: Scene, compare: Comparison, task: Task) -> None:
    compare("depth_maps", scene.depth[None, ..., None])
    assert scene.point_map is not None
    compare("point_maps", scene.point_map[None])
    compare("pcds", scene.points[None])
    compare("rgbs", scene.colors[None])
    compare("extrinsics", scene.T_cam_world[None, :, :3])
    compare("intrinsics", scene.intrinsics[None])
    expected = compare.outputs["point_masks"].bool()
    differing = (compare.subsample(scene.valid[None], expected) != expected).flatten(2).sum(-1)
    assert differing.max() <= MASK_PIXELS
    counts = scene.valid.flatten(1).sum(1)[None]
    assert (counts - compare.outputs["point_mask_counts"]).abs().max() <= MASK_PIXELS
    assert scene.observed.nonzero().flatten().tolist() == task.known_frames(len(scene))


def _ways() -> list[Any]:
    """Without anything, with all exact speed-ups on, and at the level that moves the most weights."""
    found = []
    for name in _cases():
        for device, way in (
            ("cpu", "plain"),
            ("cpu", "moved"),
            ("cpu", "optimised"),
            ("cuda", "optimised"),
            ("cuda", "moved"),
        ):
            quick = way == "plain" and name != "pipeline_allview"
            slow = [] if quick else [pytest.mark.slow]
            marks = [pytest.mark.gpu] if device == "cuda" else slow
            found.append(pytest.param(name, device, way, id=f"{name}-{device}-{way}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "device", "way"), _ways())
def test_pipeline(name: str, device: str, way: str, tmp_path: Path) -> None:
    case = golden.load(name)
    _write_published(tmp_path / "checkpoint", case)
    # The golden outputs hold both branches of guidance.
    level = replace(LEVELS[-1], branches_together=True) if way == "moved" else LEVELS[0]
    pipeline = Gen3RPipeline.from_pretrained(tmp_path / "checkpoint", device=device, level=level)
    if way == "optimised":
        speed_up(pipeline, channels_last=True, compiled=True)
    settings, out = case.meta["settings"], case.outputs
    task, frames = Task(case.meta["task"]), case.meta["num_frames"]
    low = case.inputs["control_lowres"].permute(0, 3, 1, 2)
    noise = case.inputs["vae_noise"][0]
    latents = _initial_latents(case)
    size = (noise.shape[-2] * 8, noise.shape[-1] * 8)
    shape = LatentShape(frames, *size)
    images = low.repeat_interleave(size[0] // low.shape[2], 2).repeat_interleave(size[1] // low.shape[3], 3)
    images = images.to(device)
    compare = Comparison(case)
    compare("control_images_check", images[None])
    cameras: Any = settings["cameras"]
    if settings.get("zero_camera"):
        cameras = "free"
    elif cameras == "given":
        cameras = CameraPath(case.inputs["c2ws"], case.inputs["Ks"], size)
    with torch.no_grad(), pipeline.placement.using(vggt=pipeline.vggt, text_encoder=pipeline.text_encoder):
        rays = pipeline.rays(cameras, images, shape)[None]
        if "plucker" in out:
            compare("plucker", rays)
        compare("camera_latents", pack_cameras(rays))
        if "scene_scale" in out:
            _check_built_in_cameras(pipeline, settings["cameras"], images, shape, compare)
        ids = [case.inputs[key].tolist() for key in ("negative_prompt_ids", "prompt_ids")]
        assert pipeline.text_encoder is not None
        prompts = pipeline.text_encoder.embed(ids, text_len=pipeline.transformer.config.text_len)
        if settings["guidance"] > 1:
            compare("context_0", prompts[0])
        compare("context_1" if settings["guidance"] > 1 else "context_0", prompts[1])

    seen: dict[str, torch.Tensor] = {}
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    finals: list[torch.Tensor] = []

    def on_transformer(_module: Any, args: Any, _kwargs: Any, output: torch.Tensor) -> None:
        hidden, timestep = args
        seen["control_latents"] = hidden[-1:, output.shape[1] :]
        steps.append((timestep, output))

    def on_image(_module: Any, _args: Any, output: torch.Tensor) -> None:
        seen["clip_context"] = output

    decode = pipeline._decode

    def on_decode(final: torch.Tensor, *args: Any) -> Any:
        finals.append(final)
        return decode(final, *args)

    pipeline.transformer.register_forward_hook(on_transformer, with_kwargs=True)
    pipeline.image_encoder.register_forward_hook(on_image)
    pipeline._decode = on_decode  # type: ignore[assignment,method-assign]
    scene = pipeline.generate(
        Job(images, task, prompts[1], cameras),
        Sampling(
            num_frames=frames,
            size=size,
            steps=settings["steps"],
            guidance=settings["guidance"],
            negative_prompt=prompts[0],
            limit_depth=settings["min_max"],
            point_map=True,
        ),
        noise=Noise(latents[0], noise),
    )
    compare("control_latents", seen["control_latents"])
    compare("clip_context", seen["clip_context"])
    for index, (timestep, output) in enumerate(steps):
        compare(f"step{index}/t", timestep.float().expand(len(output)))  # the branches share it
        compare(f"step{index}/model_output", output)
    assert f"step{len(steps)}/t" not in out
    compare("latents_final", finals[0])
    _check_scene(_on_host(scene), compare, task)
