"""Loading the model in the worker, with one figure of progress for all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.status import ModelFacts

if TYPE_CHECKING:
    from gen3r_core.checkpoint.folder import Checkpoint
    from gen3r_core.pipeline import Gen3RPipeline

IMPORTS = 0.1
"""Share of the progress that the libraries get."""

Report = Callable[[float, str], None]
"""Called with what is done, 0 to 1, and in words what is being done."""


def load_pipeline(options: WorkerOptions, report: Report) -> tuple[Gen3RPipeline, ModelFacts]:
    """Import the libraries and load the model.

    Args:
        options: what to load, and where to.
        report: see :data:`Report`.

    Raises:
        Gen3RError: checkpoint, prompts or device cannot be used, or memory runs out.
    """
    report(0.0, "importing PyTorch")
    import torch  # noqa: F401 - so that the next words are true

    report(IMPORTS / 4, "importing the networks")
    from gen3r_core.checkpoint.folder import open_checkpoint
    from gen3r_core.commands.options import choose_device, choose_dtype
    from gen3r_core.conditioning import Task
    from gen3r_core.execution.levels import LEVELS
    from gen3r_core.execution.plan import limit_memory, plan_model
    from gen3r_core.jobs import Sampling
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.prompts import PromptCache

    report(IMPORTS, "opening the checkpoint")
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    level = LEVELS[0]
    if options.memory_budget is not None:
        report(IMPORTS, f"planning for {options.memory_budget:g} GiB")
        model = options.random_size or open_checkpoint(options.checkpoint)
        sampling = Sampling() if isinstance(model, str) else Sampling(geometry=model.defaults["geometry"])
        text, budget = not options.prompts, options.memory_budget
        level = plan_model(model, Task.TWO_VIEW, sampling, dtype, budget, text=text, reconstructs=True).level
        limit_memory(device, options.memory_budget)
    if options.random_size is not None:
        from gen3r_core.sizes import random_pipeline

        name, guidance = f"random-{options.random_size}", Sampling().guidance
        pipeline = random_pipeline(options.random_size, device=device, dtype=dtype, level=level)
    else:
        checkpoint = open_checkpoint(options.checkpoint)
        guidance = float(checkpoint.defaults["guidance"])
        name = checkpoint.name
        prompts = PromptCache.load(options.prompts) if options.prompts else None
        pipeline = Gen3RPipeline.from_pretrained(
            checkpoint,
            device=device,
            dtype=dtype,
            prompts=prompts,
            level=level,
            progress=component_progress(checkpoint, report, leave_out="text_encoder" if options.prompts else None),
        )
    if options.compiled:
        report(1.0, "compiling")
        compile_pipeline(pipeline, guidance)
    weights = pipeline.transformer.patch_embedding.weight
    networks = [pipeline.transformer, pipeline.video_vae, pipeline.geometry_adapter, pipeline.vggt]
    count = sum(parameter.numel() for network in networks for parameter in network.parameters())
    facts = ModelFacts(
        name=name,
        num_frames=pipeline.num_frames,
        image_size=pipeline.image_size,
        device=str(weights.device),
        dtype=str(weights.dtype).removeprefix("torch."),
        parameters=count,
    )
    return pipeline, facts


def compile_pipeline(pipeline: Gen3RPipeline, guidance: float, *, backend: str = "inductor") -> None:
    """Put compiled networks in place and have them compiled, by a prediction of two steps.

    Windows of keyframes are of any number of views, each a shape of its own, so VGGT stays as it is.

    Args:
        pipeline: as it was loaded.
        guidance: of the predictions to come: one branch and two are different shapes.
        backend: torch's name of a compiler.
    """
    import torch

    from gen3r_core.conditioning import Task
    from gen3r_core.execution.grid import speed_up
    from gen3r_core.jobs import Job, Sampling

    speed_up(pipeline, channels_last=False, compiled=True, vggt=False, backend=backend)
    text = torch.zeros(1, pipeline.transformer.config.text_dim)  # there may be no text encoder
    job = Job(torch.zeros(2, 3, *pipeline.image_size), Task.TWO_VIEW, prompt=text, cameras="zoom_in")
    pipeline.generate(job, Sampling(steps=2, guidance=guidance, negative_prompt=text))


def component_progress(
    checkpoint: Checkpoint, report: Report, *, leave_out: str | None = None
) -> Callable[[str, int, int], None]:
    """Turns reports by component into one figure, weighed by the size of the files.

    Args:
        checkpoint: that is loaded.
        report: told the figure, from :data:`IMPORTS` to 1.
        leave_out: a component that is not loaded.
    """
    sizes = {name: _file_bytes(part.path) for name, part in checkpoint.components.items() if name != leave_out}
    whole = max(1, sum(sizes.values()))
    finished: dict[str, float] = {}

    def progress(name: str, done: int, total: int) -> None:
        finished[name] = sizes[name] * done / max(total, 1)
        share = sum(finished.values()) / whole
        report(IMPORTS + (1 - IMPORTS) * share, f"loading {name} ({len(finished)} of {len(sizes)})")

    return progress


def _file_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
