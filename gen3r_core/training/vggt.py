"""The VGGT stage: cameras, depth and points from images, against ground truth in scene units.

The recipe is VGGT's (arXiv 2503.11651): a random number of views of a clip, truth in the first view's frame
with the mean point distance as unit, and confidence-weighted losses. The patch embedding is trained jointly,
so no pretrained DINOv2 is needed; its mask token has no use and stays frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gen3r_core.decoding import plausible_encoding
from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.metrics.cameras import area_under_curve, camera_errors
from gen3r_core.metrics.clouds import points_error
from gen3r_core.metrics.depth import depth_errors
from gen3r_core.models.vggt import VGGT, VGGTPrediction
from gen3r_core.models.vggt.blocks import LayerScale
from gen3r_core.training.augment import on_device
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.components import chosen_sizes, complete_state, trained_component
from gen3r_core.training.export import export_component
from gen3r_core.training.losses import RegressionLoss, camera_loss, confident_regression, relative_pose_loss
from gen3r_core.training.options import check_range, choose, read_options
from gen3r_core.training.scene_units import SceneTruth, normalised_truth
from gen3r_core.training.token_hints import TokenHints, hint_truth
from gen3r_core.training.whole_clip import channels_last

__all__ = ["VGGTOptions", "VGGTStage", "from_config"]

_FIRST_POSE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.25, 0.25)
"""Correction of an untrained camera head: after four refinements no motion, and views about one radian wide.
Fields of view pass a rectifier, which has no gradient where they begin below 0."""

_LOSSES = ("camera", "depth", "point", "gradient", "pair", "hint")


@dataclass(frozen=True)
class VGGTOptions:
    """Keys of the stage's configuration.

    Attributes:
        size: row of :data:`gen3r_core.sizes.SIZES` that gives the sizes of a network from scratch.
        config: sizes that differ from it, or all of them (:class:`gen3r_core.models.vggt.VGGTConfig`).
        initial: folder to start from, in place of both.
        seed: of first weights and of the number of views.
        layer_scale: first value of the alternating blocks' layer scale, from scratch; None keeps VGGT's 0.01.
        min_views: fewest views of a step.
        max_views: most; None for all frames of a clip.
        view_counts: the numbers of views to choose from, in place of every number between those two (each
            is a graph of its own where the network is compiled).
        dense_views: views of a step whose depth and points are learnt from, drawn anew in every step; None takes
            all. Dense heads cost more than all the rest.
        depth_only_steps: first steps that train on depth alone.
        camera_weight: factor of the camera loss.
        depth_weight: factor of the depth loss.
        point_weight: factor of the point loss.
        gradient_weight: factor of the gradient terms within the last two.
        alpha: reward of confidence.
        depth_error: "absolute" (the paper's), or "relative" (divided by the true depth).
        camera_error: "huber" (the paper's) or "l1", which goes on pulling where errors are small.
        huber_delta: of the camera loss.
        pair_weight: factor of the loss of relative poses between all pairs of views
            (:func:`gen3r_core.training.losses.relative_pose_loss`).
        hint_weight: factor of what every token is asked for (:mod:`gen3r_core.training.token_hints`); 0 does without.
        frames_per_chunk: frames that go through a dense head at a time.
        channels_last: lay out the dense heads' weights channels-last, as tensor cores like convolutions.
        compile: compile with ``torch.compile``: "" nothing, "blocks" the blocks of the aggregator (a graph for each
            number of views, within a frame and across), "network" everything (a minute for each number).

    Raises:
        InputError: a value is out of range.
    """

    size: str = ""
    config: dict[str, Any] | None = None
    initial: str | None = None
    seed: int = 0
    layer_scale: float | None = None
    min_views: int = 2
    max_views: int | None = None
    view_counts: tuple[int, ...] = ()
    dense_views: int | None = None
    depth_only_steps: int = 0
    camera_weight: float = 5.0
    depth_weight: float = 1.0
    point_weight: float = 1.0
    gradient_weight: float = 1.0
    alpha: float = 0.2
    depth_error: str = "absolute"
    camera_error: str = "huber"
    huber_delta: float = 0.1
    pair_weight: float = 0.0
    hint_weight: float = 0.0
    frames_per_chunk: int = 256
    channels_last: bool = False
    compile: str = ""

    def __post_init__(self) -> None:
        choose("compile", self.compile, ("", "blocks", "network"))
        choose("depth_error", self.depth_error, ("absolute", "relative"))
        choose("camera_error", self.camera_error, ("huber", "l1"))
        for name in ("min_views", "max_views", "dense_views", "frames_per_chunk"):
            check_range(name, getattr(self, name), 1)
        for name in ("depth_only_steps", "alpha", *(f"{loss}_weight" for loss in _LOSSES)):
            check_range(name, getattr(self, name), 0)
        for count in self.view_counts:
            check_range("view_counts", count, 1)
        if self.max_views is not None and self.max_views < self.min_views:
            raise InputError(f"option 'max_views' is {self.max_views}, below 'min_views' = {self.min_views}")


class VGGTStage:
    """Trains :class:`gen3r_core.models.vggt.VGGT`.

    Args:
        module: the network, float32, on its device.
        options: see :class:`VGGTOptions`.
    """

    name = "vggt"

    def __init__(self, module: VGGT, options: VGGTOptions) -> None:
        self.network, self.options = module, options
        self.module: nn.Module = module
        self._hints: TokenHints | None = None
        if options.hint_weight > 0:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(options.seed)
                config = module.config
                self._hints = TokenHints(2 * config.embed_dim, len(config.layers), config.special_tokens)
            self._hints.to(next(module.parameters()).device)
            self.module = nn.ModuleDict({"network": module, "hints": self._hints}).train()
        module.aggregator.patch_embed.mask_token.requires_grad = False
        if options.channels_last:
            channels_last(module.depth_head)
            channels_last(module.point_head)
        if options.compile == "blocks":
            for block in (*module.aggregator.frame_blocks, *module.aggregator.global_blocks):
                block.compile(dynamic=False)
        self._predicted = torch.compile(self._predict) if options.compile == "network" else self._predict

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of some views of every clip; see :class:`gen3r_core.training.stage.Stage`.

        Raises:
            InputError: the batch has no depth or no cameras.
        """
        options = self.options
        views = self.choose_views(batch, step, generator)
        truth = normalised_truth(views, "the VGGT stage")
        dense = self._dense_views(step, views)
        prediction, tokens = self._predicted(views.colors, dense)
        told, hints = self._hint_loss(tokens, truth, views)
        if dense is not None:
            truth = replace(
                truth, depth=truth.depth[:, dense], points=truth.points[:, dense], mask=truth.mask[:, dense]
            )
        camera = camera_loss(
            prediction.pose_iterations, truth.pose_encoding, kind=options.camera_error, delta=options.huber_delta
        )
        pairs = relative_pose_loss(prediction.pose_encoding, truth.pose_encoding)
        depth, points = self._dense_losses(prediction, truth)
        # Weight 0 in place of leaving a term out: every parameter has a gradient in every step.
        others = 0.0 if step < options.depth_only_steps else 1.0
        total = options.depth_weight * depth.total + others * (
            options.camera_weight * camera + options.point_weight * points.total + options.pair_weight * pairs
        )
        total = total + options.hint_weight * told
        figures = {
            "camera": camera.detach(),
            "pairs": pairs.detach(),
            "depth": depth.total.detach(),
            "points": points.total.detach(),
            "depth_error": depth.error,
            "points_error": points.error,
            **hints,
        }
        return total, figures

    def _dense_views(self, step: int, views: ClipBatch) -> Tensor | None:
        """Places of the views that go through the dense heads, on the device; None for all."""
        count = views.colors.shape[1]
        most = self.options.dense_views
        if most is None or most >= count:
            return None
        places = np.random.default_rng([self.options.seed, step, 1]).permutation(count)[:most]
        return on_device(torch.from_numpy(places), views.device)

    def _hint_loss(self, tokens: list[Tensor], truth: SceneTruth, views: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if self._hints is None or views.intrinsics is None:
            return torch.zeros((), device=views.device), {}
        loss, figures = self._hints(tokens, hint_truth(truth, views.intrinsics, self.network.patch_size))
        return loss, figures

    def _predict(self, colors: Tensor, dense: Tensor | None) -> tuple[VGGTPrediction, list[Tensor]]:
        """Cameras of all views; depth and points of some; the tokens."""
        network, size, chunk = self.network, (colors.shape[-2], colors.shape[-1]), self.options.frames_per_chunk
        tokens = network.aggregate(colors)
        if dense is None:
            return network.decode(tokens, size, frames_per_chunk=chunk), tokens
        steps = network.predict_cameras(tokens)
        some = [layer[:, dense] for layer in tokens]
        depth, depth_confidence = network.predict_depth(some, size, frames_per_chunk=chunk)
        points, points_confidence = network.predict_points(some, size, frames_per_chunk=chunk)
        return VGGTPrediction(steps[-1], depth, depth_confidence, points, points_confidence, steps), tokens

    def _dense_losses(self, prediction: VGGTPrediction, truth: SceneTruth) -> tuple[RegressionLoss, RegressionLoss]:
        options = self.options
        weight = None
        if options.depth_error == "relative":
            weight = 1 / torch.where(truth.mask, truth.depth, torch.ones_like(truth.depth))
        loss = partial(
            confident_regression,
            mask=truth.mask,
            alpha=options.alpha,
            gradient_weight=options.gradient_weight,
            weight=weight,
        )
        depth = loss(prediction.depth[..., None], truth.depth[..., None], prediction.depth_confidence)
        found, confidence = _points(prediction)
        return depth, loss(found, truth.points, confidence)

    def choose_views(self, batch: ClipBatch, step: int, generator: torch.Generator) -> ClipBatch:
        """Some frames of every clip: the first, and others in random order, another choice for each clip.

        How many is a shape and has to be known on the host: it follows from the seed and the step.

        Args:
            batch: F frames a clip.
            step: of the training.
            generator: for which frames; on the batch's device.
        """
        frames = batch.colors.shape[1]
        count = self.view_count(step, frames)
        scores = torch.rand(len(batch), frames, generator=generator, device=batch.device)
        scores[:, 0] = -1
        order = scores.argsort(dim=1)[:, :count]
        clips = torch.arange(len(batch), device=batch.device)[:, None]

        def pick(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[clips, order]

        return replace(
            batch,
            colors=batch.colors[clips, order],
            depth=pick(batch.depth),
            intrinsics=pick(batch.intrinsics),
            T_world_cam=pick(batch.T_world_cam),
        )

    def view_count(self, step: int, frames: int) -> int:
        """Views of a step, of clips of ``frames`` frames."""
        options = self.options
        most = min(frames, options.max_views or frames)
        counts = [count for count in options.view_counts if count <= frames]
        if not counts:
            counts = list(range(min(options.min_views, most), most + 1))
        return int(np.random.default_rng([options.seed, step]).choice(counts))

    @torch.no_grad()
    def validate(self, batch: ClipBatch) -> dict[str, float]:
        """Figures on whole clips, all frames in order.

        Returns:
            ``absrel`` and ``delta125`` of depth after one scale a clip, ``auc30`` of cameras, ``rotation_error`` and
            ``translation_error`` (mean over pairs of views, degrees), ``fov_error`` (degrees), ``points_error`` (mean
            distance over mean length, after one scale a clip).

        Raises:
            InputError: the batch has no depth or no cameras.
        """
        truth = normalised_truth(batch, "the VGGT stage")
        prediction = self.network(batch.colors, frames_per_chunk=self.options.frames_per_chunk)
        absrel, within = depth_errors(prediction.depth, truth.depth, truth.mask)
        encoding = plausible_encoding(prediction.pose_encoding)
        poses, _ = decode_pose_encoding(encoding, batch.size)
        errors = camera_errors(homogeneous(poses), truth.T_cam_world)
        fov = torch.rad2deg((encoding[..., 7:] - truth.pose_encoding[..., 7:]).abs()).mean()
        return {
            "absrel": float(absrel.mean()),
            "delta125": float(within.mean()),
            "auc30": float(area_under_curve(errors).mean()),
            "rotation_error": float(errors.rotation.mean()),
            "translation_error": float(errors.translation.mean()),
            "fov_error": float(fov),
            "points_error": float(points_error(_points(prediction)[0], truth.points, truth.mask).mean()),
        }

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the component folder ``vggt``; see :class:`gen3r_core.training.stage.Stage`."""
        prefix = "" if self._hints is None else "network."
        export_component(folder, "vggt", self.network, complete_state(self.network, state, prefix))


def _points(prediction: VGGTPrediction) -> tuple[Tensor, Tensor]:
    """Points and their confidence: the stage trains all heads."""
    if prediction.points is None or prediction.points_confidence is None:
        raise RuntimeError("the VGGT stage needs predictions of the point head")
    return prediction.points, prediction.points_confidence


def from_config(values: Mapping[str, Any], device: torch.device | str) -> VGGTStage:
    """The stage from the values of a configuration file.

    Args:
        values: keys as :class:`VGGTOptions` has them.
        device: where the network goes.

    Raises:
        InputError: a key is unknown or a value cannot be used.
        CheckpointError: sizes or weights cannot be used.
    """
    options = read_options(VGGTOptions, values, "vggt")
    sizes = chosen_sizes("vggt", options.size, options.config, options.initial)
    module, fresh = trained_component("vggt", sizes, options.initial, device, seed=options.seed)
    network = cast(VGGT, module)
    with torch.no_grad():
        if fresh:
            correction = network.camera_head.pose_branch.fc2
            correction.weight.mul_(0.1)
            correction.bias.copy_(torch.tensor(_FIRST_POSE) * 4 / network.camera_head.config.num_iterations)
        if fresh and options.layer_scale is not None:
            for block in (*network.aggregator.frame_blocks, *network.aggregator.global_blocks):
                for layer in block.modules():
                    if isinstance(layer, LayerScale):
                        layer.gamma.fill_(options.layer_scale)
    return VGGTStage(network, options)
