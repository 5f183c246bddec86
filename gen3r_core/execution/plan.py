"""From a memory budget to a level: the peak of every stage, predicted before a weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from gen3r_core.checkpoint.components import SPECS, Config
from gen3r_core.conditioning import LatentShape, Task
from gen3r_core.devices import numbered
from gen3r_core.errors import InputError
from gen3r_core.execution.footprint import measure_footprint, weight_bytes
from gen3r_core.execution.levels import LEVELS, Level
from gen3r_core.execution.placement import blocks_of, stays_home
from gen3r_core.geometry_source import GeometrySource
from gen3r_core.models.text_encoder import TextEncoder
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.multiples import FOLD

if TYPE_CHECKING:
    from gen3r_core.checkpoint.folder import Checkpoint
    from gen3r_core.jobs import Sampling

GIB = 2**30
WORKSPACE = GIB // 4
"""For what libraries allocate beside tensors (convolution and matrix workspaces)."""

FRAGMENTED = 1.08
"""What the allocator holds over what tensors occupy."""

_TRACED_BLOCKS = 2
"""Blocks of the transformer that are run for a prediction: all are alike, and the second needs the most."""


def empty_networks(configs: Mapping[str, Config], dtype: torch.dtype) -> dict[str, nn.Module]:
    """Networks without data, on the meta device.

    Args:
        configs: our configuration of each network, by name.
        dtype: of the weights; what must stay float32 does.
    """
    networks = {}
    for name, config in configs.items():
        spec = SPECS[name]
        with init_empty_weights(include_buffers=False):
            network = spec.build(config)
        for key, weight in network.named_parameters():
            kept = dtype.itemsize < 4 and any(part in key for part in spec.keep_in_float32)
            weight.data = weight.data.to(torch.float32 if kept else dtype)
        networks[name] = network.to("meta").eval()
        if isinstance(network, TextEncoder):
            network.model.tie_weights()  # its table has two names
    return networks


def configs_of(checkpoint: Checkpoint, *, leave_out: str | None = None) -> dict[str, Config]:
    """The networks' configurations in a checkpoint, but one."""
    return {name: dict(part.config) for name, part in checkpoint.components.items() if name != leave_out}


@dataclass(frozen=True)
class StagePeak:
    """A stage's peak in bytes.

    Attributes:
        stage: name as in :class:`gen3r_core.progress.Progress`.
        weights: of all networks on the device.
        working: of everything else.
    """

    stage: str
    weights: int
    working: int

    @property
    def total(self) -> int:
        """With workspaces and what fragmentation costs."""
        return round((self.weights + self.working) * FRAGMENTED) + WORKSPACE


@dataclass(frozen=True)
class MemoryPlan:
    """A level and what it needs.

    Attributes:
        level: to run at.
        stages: in their order.
        host_bytes: of weights that live in host memory.
    """

    level: Level
    stages: list[StagePeak]
    host_bytes: int

    @property
    def peak(self) -> StagePeak:
        """The stage that needs the most."""
        return max(self.stages, key=lambda stage: stage.total)

    def words(self) -> str:
        """In one line."""
        peak = self.peak
        return (
            f"{self.level.name}: {peak.total / GIB:.2f} GiB on the device (in {peak.stage}), "
            f"{self.host_bytes / GIB:.2f} GiB of weights in host memory; {self.level.words}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "level": self.level.name,
            "words": self.level.words,
            "peak_gib": self.peak.total / GIB,
            "host_gib": self.host_bytes / GIB,
            "stages": {stage.stage: stage.total / GIB for stage in self.stages},
        }


class Planner:
    """Predicts peaks of one kind of job.

    Args:
        networks: of :func:`empty_networks`; without a text encoder prompts come embedded.
        task: of the job.
        shape: of the job.
        guided: whether there is guidance.
        geometry: where the geometry comes from.
        point_map: whether VGGT's point head is run.
        reconstructs: whether as many views are also reconstructed as they are, by VGGT alone.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        task: Task,
        shape: LatentShape,
        *,
        guided: bool = True,
        geometry: GeometrySource | str = GeometrySource.LATENTS,
        point_map: bool = False,
        reconstructs: bool = False,
    ) -> None:
        self._networks: Any = dict(networks)
        self._task = task
        self._shape = shape
        self._guided = guided
        self._reads_frames = geometry == GeometrySource.FRAMES
        self._point_map = point_map
        self._reconstructs = reconstructs
        self._dtype: torch.dtype = self._networks["transformer"].patch_embedding.weight.dtype
        self._known: dict[object, tuple[int, int]] = {}

    def plan(self, level: Level) -> MemoryPlan:
        """The peaks of all stages at a level."""
        stages = []
        # What stays from stage to stage: images, embeddings, control latents; then the finished scene.
        frame = 4 * 3 * self._shape.height * self._shape.width
        kept = frame * len(self._task.known_frames(self._shape.num_frames))
        for stage, used, work in self._stages(level):
            if all(name in self._networks for name in used):
                peak, left = self._measured((stage, *work.keywords.items()), work, used)
                stages.append(StagePeak(stage, self._weights(level, used), kept + peak))
                kept += 0 if stage == "adapter" else left
        if self._reconstructs:  # a job of its own
            work = partial(self._frames, chunk=level.frames_per_chunk)
            peak, _ = self._measured(("vggt", *work.keywords.items()), work, ("vggt",))
            stages.append(StagePeak("vggt", self._weights(level, ("vggt",)), frame * self._shape.num_frames + peak))
        host = sum(weight_bytes(net) for name, net in self._networks.items() if name in level.away)
        return MemoryPlan(level, _merged(stages), host)

    def _weights(self, level: Level, used: Sequence[str]) -> int:
        """Bytes on the device while some networks are used."""
        here = [weight_bytes(net) for name, net in self._networks.items() if name not in level.away]
        return sum(here) + sum(self._visiting(name, level) for name in used if name in level.away)

    def choose(self, budget: float) -> MemoryPlan:
        """The fastest level that fits, with as many networks on the device all the time as fit, the largest first.

        Args:
            budget: GiB that torch may hold on the device.

        Raises:
            InputError: none does.
        """
        plan = self.plan(LEVELS[0])
        for level in LEVELS:
            plan = self.plan(level)
            if plan.peak.total <= budget * GIB:
                return self._filled(plan, budget)
        raise InputError(
            f"a memory budget of {budget:g} GiB is too small for {self._shape.num_frames} frames of "
            f"{self._shape.height}x{self._shape.width}: the most sparing level needs {plan.peak.total / GIB:.2f} GiB "
            f"(in {plan.peak.stage}); use fewer frames (--num_frames), smaller images (--size) or a larger budget"
        )

    def _filled(self, plan: MemoryPlan, budget: float) -> MemoryPlan:
        """A plan that fits, with the rest of the budget used for networks that need not come and go."""
        base = plan.level
        staying: list[str] = []
        away = [name for name in self._networks if name in base.away]
        for name in sorted(away, key=lambda name: weight_bytes(self._networks[name]), reverse=True):
            level = base.keeping({*staying, name})
            larger = self.plan(level)
            if larger.peak.total <= budget * GIB:
                plan = larger
                staying.append(name)
        return plan

    def _visiting(self, name: str, level: Level) -> int:
        network = self._networks[name]
        blocks = blocks_of(network) if name in level.streamed else []
        sizes = [weight_bytes(block) for block in blocks]
        home = [tensor.nbytes for tensor in stays_home(network) if blocks]
        return weight_bytes(network) - sum(sizes) - sum(home) + 2 * max(sizes, default=0)

    def _measured(self, key: object, work: Callable[[], object], used: tuple[str, ...]) -> tuple[int, int]:
        if key not in self._known:
            self._known[key] = measure_footprint(work, *(self._networks[name] for name in used))
        return self._known[key]

    def _stages(self, level: Level) -> list[tuple[str, tuple[str, ...], partial[object]]]:
        chunk = level.frames_per_chunk
        branches = 2 if self._guided and level.branches_together else 1
        denoise = partial(self._denoise, branches=branches, parts=level.feed_forward_parts)
        of_latents: list[tuple[str, tuple[str, ...], partial[object]]] = [
            ("adapter", ("geometry_adapter",), partial(self._adapter)),
            ("geometry", ("vggt",), partial(self._heads, chunk=chunk)),
        ]
        return [
            ("text", ("text_encoder",), partial(self._text)),
            ("image", ("image_encoder",), partial(self._image)),
            ("views", ("vggt",), partial(self._views, chunk=chunk)),
            ("cameras", ("transformer",), partial(self._cameras)),
            ("video_encode", ("video_vae",), partial(self._encode)),
            ("denoise", ("transformer",), denoise),
            *([] if self._reads_frames and self._task is Task.ALL_VIEW else of_latents),
            ("video_decode", ("video_vae",), partial(self._colors)),
            *([("vggt", ("vggt",), partial(self._frames, chunk=chunk))] if self._reads_frames else []),
        ]

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=self._dtype if dtype is None else dtype, device="meta")

    def _half(self) -> tuple[int, ...]:
        frames, rows, columns = self._shape.latent
        return 1, self._networks["geometry_adapter"].config.latent_channels, frames, rows, columns // 2

    def _text(self) -> object:
        length = self._networks["transformer"].config.text_len
        ids = self._empty(2, length, dtype=torch.int64)
        # Without a mask, whose values transformers would look at.
        return [hidden.clone() for hidden in self._networks["text_encoder"](ids)]

    def _image(self) -> object:
        return self._networks["image_encoder"](self._empty(1, 3, *self._shape.size, dtype=torch.float32))

    def _views(self, chunk: int) -> object:
        """Scale and intrinsics for a built-in path, by VGGT, of the images."""
        if self._task is Task.ALL_VIEW:
            return None
        count = len(self._task.known_frames(self._shape.num_frames))
        images = self._empty(1, count, 3, *self._shape.size, dtype=torch.float32)
        vggt = self._networks["vggt"]
        vggt.predict_depth(vggt.aggregate(images), self._shape.size, frames_per_chunk=chunk)
        return None

    def _cameras(self) -> object:
        if self._networks["transformer"].camera_adapter is None:
            return None
        frames, rows, columns = self._shape.latent
        rays = self._empty(1, 6 * FOLD, frames, 8 * rows, 8 * columns)
        return self._networks["transformer"].embed_cameras(rays)

    def _encode(self) -> object:
        clip = self._empty(1, 3, self._shape.num_frames, *self._shape.size)
        mean = self._networks["video_vae"].encode(clip).latent_dist.mean
        return torch.cat([mean.float()] * 2 + [mean[:, :FOLD].float()] * 2, dim=1)

    def _denoise(self, branches: int, parts: int) -> object:
        net = self._networks["transformer"]
        config, blocks = net.config, net.blocks
        frames, rows, columns = self._shape.latent
        net.blocks = blocks[:_TRACED_BLOCKS]
        net.split_feed_forward(parts)
        latents = self._empty(1, config.out_channels, frames, rows, columns, dtype=torch.float32)
        flows = [latents] * 4  # a solver's memory of earlier steps, and the flow
        tables = net.rope(latents)
        text = self._empty(branches, config.text_len, config.text_dim)
        context = net.embed_context(text, self._empty(branches, 257, config.image_dim))
        hidden = self._empty(branches, config.in_channels, frames, rows, columns, dtype=torch.float32)
        try:
            time = self._empty(branches, dtype=torch.float32)
            flows.append(net(hidden, time, context=context, rotary=tables))
        finally:
            net.blocks = blocks
            net.split_feed_forward(1)
        return latents.clone()

    def _adapter(self) -> object:
        return self._networks["geometry_adapter"].decode(self._empty(*self._half(), dtype=torch.float32))

    def _heads(self, chunk: int) -> object:
        adapter, vggt = self._networks["geometry_adapter"].config, self._networks["vggt"]
        grid = [side // vggt.patch_size for side in self._shape.size]
        tokens = self._empty(1, adapter.token_channels, self._shape.num_frames, *grid)
        layers = unpack_tokens(tokens, vggt.special_tokens, num_layers=len(vggt.config.layers))
        del tokens
        if self._reads_frames:
            depth, _ = vggt.predict_depth(layers, self._shape.size, frames_per_chunk=chunk)
            return depth, vggt.predict_cameras(layers)[-1]
        return vggt.decode(layers, self._shape.size, frames_per_chunk=chunk, points=self._point_map)

    def _colors(self) -> object:
        video = self._networks["video_vae"].decode(self._empty(*self._half())).sample.float()
        return (video / 2 + 0.5).clamp(0, 1)

    def _frames(self, chunk: int) -> object:
        frames = self._empty(1, self._shape.num_frames, 3, *self._shape.size, dtype=torch.float32)
        return self._networks["vggt"](frames, frames_per_chunk=chunk, points=self._point_map)


def plan_model(
    model: str | Checkpoint,
    task: Task,
    sampling: Sampling,
    dtype: torch.dtype,
    budget: float,
    *,
    text: bool = True,
    reconstructs: bool = False,
) -> MemoryPlan:
    """The fastest level at which a model's job fits a budget.

    Args:
        model: a named size (see :mod:`gen3r_core.sizes`), or a checkpoint.
        task: of the job.
        sampling: of the job; frames and size are the model's where it has none.
        dtype: of the weights.
        budget: GiB that torch may hold on the device.
        text: whether prompts are embedded by the text encoder.
        reconstructs: as :class:`Planner` has it.

    Raises:
        InputError: no level fits.
    """
    left_out = None if text else "text_encoder"
    if isinstance(model, str):
        from gen3r_core.sizes import SIZES

        size = SIZES[model]
        frames, (height, width) = size.num_frames, size.image_size
        configs = {name: config for name, config in size.components.items() if name != left_out}
    else:
        frames, (height, width) = model.defaults["num_frames"], model.defaults["image_size"]
        configs = configs_of(model, leave_out=left_out)
    shape = LatentShape(sampling.num_frames or frames, *(sampling.size or (height, width)))
    planner = Planner(
        empty_networks(configs, dtype),
        task,
        shape,
        guided=sampling.guidance > 1,
        geometry=sampling.geometry,
        point_map=sampling.point_map,
        reconstructs=reconstructs,
    )
    return planner.choose(budget)


def _merged(stages: list[StagePeak]) -> list[StagePeak]:
    """Steps that a job reports as one stage, as one."""
    names = {"views": "cameras", "adapter": "geometry"}
    merged: dict[str, StagePeak] = {}
    for stage in stages:
        name = names.get(stage.stage, stage.stage)
        before = merged.get(name)
        if before is None or before.total < stage.total:
            merged[name] = StagePeak(name, stage.weights, stage.working)
    return list(merged.values())


def limit_memory(device: torch.device, budget: float) -> None:  # pragma: gpu-only
    """Have torch hold no more than a budget in GiB on a GPU, so that other processes keep the rest."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget * GIB / total), numbered(device))
