"""The trainer: steps of a stage on clips of a source, as a plan says, until it is done or somebody stops it.

A step is: draw the batch and the random numbers that belong to it, add up gradients, clip them, update, average. What
a step sees is a function of the plan's seed and the step's number, so that a resumed training goes on as if it had not
been interrupted. Nothing in a step waits for the device; figures are read every `log_every` steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from gen3r_core.devices import memory_errors
from gen3r_core.errors import CancelledError
from gen3r_core.io.atomic import output_error
from gen3r_core.training.augment import random_crop
from gen3r_core.training.batch import ClipBatch, ClipSource
from gen3r_core.training.checkpoints import find_states, load_state, save_state
from gen3r_core.training.monitor import Figures, StopRequest, catch_signals, format_duration
from gen3r_core.training.optimisation import FiniteWatch, MovingAverage, make_optimizer
from gen3r_core.training.plan import Phase, Plan, learning_rate, mixed_seed
from gen3r_core.training.processes import Shared
from gen3r_core.training.stage import FinishingStage, PhasedStage, Stage, TrainingError

__all__ = ["Trainer"]

MOST_SKIPPED = 20
"""So many steps in a row whose loss or gradients are not finite end a training."""


class Trainer:
    """Trains one stage.

    Args:
        stage: what is trained; its module lies on the accelerator's device.
        source: clips to train on.
        plan: how.
        folder: of the training: `checkpoints/`, `figures.jsonl`, `tensorboard/`, and in the end the component.
        accelerator: see :func:`gen3r_core.training.processes.make_accelerator`; its accumulation is the plan's.
        validation: clips that are never trained on; None validates nothing.
        bar: show a progress bar.
    """

    def __init__(
        self,
        stage: Stage,
        source: ClipSource,
        plan: Plan,
        folder: Path,
        *,
        accelerator: Accelerator,
        validation: ClipSource | None = None,
        bar: bool = False,
    ) -> None:
        self.stage = stage
        self.plan = plan
        self.folder = folder
        self._source = source
        self._validation = validation
        self._bar = bar
        self._accelerator = accelerator
        self._device: torch.device = accelerator.device
        stage.module.train()
        optimizer = make_optimizer(stage.module, plan)
        self._shared = Shared(accelerator, stage.module, optimizer)
        self._average = MovingAverage(self._shared.parameters, plan.ema_decay)
        self._watch = FiniteWatch(self._device)
        if self._shared.plain:
            optimizer.found_inf = self._watch.skip  # type: ignore[attr-defined]
        self._generator = torch.Generator(device=self._device)
        self._window = _Window()
        self.step = 0
        self._phase = -1
        self._phase_step = 0
        self._seconds_before = 0.0
        self._began = 0.0
        self._elapsed = 0.0
        self._saved_at = 0.0

    def run(self, *, resume: bool = False, ready: Callable[[], None] | None = None) -> Path:
        """Trains to the end of the plan and exports the component.

        Args:
            resume: go on from the newest checkpoint in the folder, if there is one.
            ready: called before the first step, when the checkpoint has been taken up.

        Returns:
            The component's folder, `folder / stage.name`.

        Raises:
            TrainingError: the folder holds another training, or losses stay not finite.
            CancelledError: SIGINT or SIGTERM came; a checkpoint was saved.
            OutputError: something cannot be written; the last checkpoint stays.
            DeviceError: memory runs out.
        """
        self.check_folder(resume=resume)
        if resume:
            self._load()
        if ready is not None:
            ready()
        with (
            contextlib.ExitStack() as stack,
            memory_errors(),
            torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []),
            _fast_convolutions(self._device),
            catch_signals() as stop,
        ):
            main = bool(self._accelerator.is_main_process)
            figures = Figures(
                self.folder,
                active=main,
                tensorboard=self.plan.tensorboard,
                step=self.step,
                total=self.plan.steps,
                bar=self._bar,
            )
            stack.callback(figures.close)
            self._began = time.monotonic()
            while (share := self.plan.share(self.step, self._elapsed)) < 1:
                self._enter_phase(self.plan.phase_at(share))
                self._train_step(self.plan.phase_share(self._phase, share))
                figures.step()
                self._between_steps(figures, stop)
            self._enter_phase(len(self.plan.stretches) - 1)
            return self._finish(figures)

    # --- one step --------------------------------------------------------------------------------------

    def _train_step(self, share: float) -> None:
        phase = self.plan.stretches[self._phase]
        rate = learning_rate(phase, self.step - self._phase_step, share)
        optimizer, accelerator = self._shared.optimizer, self._accelerator
        for group in optimizer.param_groups:
            group["lr"] = rate
        bad = torch.zeros((), device=self._device)
        for part in range(self.plan.accumulation):
            number = self._batch_number(part)
            batch = self._make_batch(phase, number, phase.frames_at(self.step))
            seed = mixed_seed(self.plan.seed, number)
            torch.manual_seed(seed)  # for dropout and the like
            self._generator.manual_seed(seed)
            with accelerator.accumulate(self._shared.model):
                loss, values = self._shared.model(
                    lambda batch=batch: self.stage.loss(batch, self.step, self._generator)
                )
                accelerator.backward(loss)
            bad = bad + ~torch.isfinite(loss.detach())
            self._window.add({"loss": loss.detach(), **values}, len(batch) * accelerator.num_processes)
        norm = accelerator.clip_grad_norm_(self._shared.model.parameters(), self.plan.clip_norm or float("inf"))
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._watch.look(self._shared.total(bad + ~torch.isfinite(norm)), self.step)
        if self._shared.plain or not bool(self._watch.skip):  # shards: the fused kernel takes no `found_inf`
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._average.update(self.step)
        self._window.note("gradient_norm", norm.detach())
        self._window.rate = rate
        self.step += 1

    def _make_batch(self, phase: Phase, number: int, num_frames: int) -> ClipBatch:
        batch = self._source.batch(
            number,
            phase.batch_size,
            num_frames=num_frames,
            size=phase.size,
            device=self._device,
        )
        if phase.crop is None:
            return batch
        return random_crop(batch, phase.crop, np.random.default_rng(mixed_seed(self.plan.seed, number, 1)))

    def _batch_number(self, part: int) -> int:
        """Which of the source's batches; each process has its own."""
        accelerator = self._accelerator
        numbered = self.step * self.plan.accumulation + part
        return numbered * int(accelerator.num_processes) + int(accelerator.process_index)

    def _enter_phase(self, index: int) -> None:
        if index == self._phase:
            return
        self._phase, self._phase_step = index, self.step
        if isinstance(self.stage, PhasedStage):
            self.stage.configure(self.plan.stretches[index].stage)

    # --- between steps ---------------------------------------------------------------------------------

    def _between_steps(self, figures: Figures, stop: StopRequest) -> None:
        plan, alone = self.plan, self._accelerator.num_processes == 1
        look = self.step % plan.log_every == 0
        if alone or look:
            self._elapsed = self._shared.agree(self._seconds_before + time.monotonic() - self._began)
        if look:
            self._log(figures)
        if plan.validate_every and self.step % plan.validate_every == 0:
            self._validate(figures)
        due = look and self._elapsed - self._saved_at >= 60 * plan.checkpoint_minutes
        if self.step % plan.checkpoint_every == 0 if plan.checkpoint_every else due:
            self.save()
        asked = bool(stop) if alone else look and bool(self._shared.total(self._flag(bool(stop))) > 0)
        if asked:
            self.save()
            raise CancelledError(f"stopped by {stop.name} after step {self.step}, which is saved; go on with --resume")

    def _log(self, figures: Figures) -> None:
        values, rate, clips = self._window.read(self._shared, self._watch.counts)
        skipped, _, most, first = (values.pop(f"_{index}") for index in range(4))
        if most >= MOST_SKIPPED:
            batches = first * self.plan.accumulation * self._accelerator.num_processes
            raise TrainingError(
                f"{self.stage.name}: the loss or its gradients were not finite for {MOST_SKIPPED} steps in a row, "
                f"since step {first:.0f} (batches from {batches:.0f}, plan's seed {self.plan.seed}); go back to a "
                f"checkpoint before it, with a lower learning_rate or clip_norm"
            )
        self._watch.forget()
        speed = clips / max(1e-9, self._window.seconds())
        share = self.plan.share(self.step, self._elapsed)
        left = self._elapsed * (1 - share) / share if share else 0.0
        more = {"learning_rate": rate, "clips_per_second": speed, "skipped": skipped}
        figures.write("train", self.step, self._elapsed, values | more)
        figures.show(loss=f"{values['loss']:.4g}", clips=f"{speed:.1f}/s", left=format_duration(left))
        self._window = _Window()

    def _validate(self, figures: Figures) -> None:
        if self._validation is None:
            return
        plan, shape = self.plan, self.plan.stretches[-1]
        sums: dict[str, float] = {}
        with self._evaluation():
            for number in range(plan.validation_batches):
                batch = self._validation.batch(
                    number,
                    plan.validation_batch_size,
                    num_frames=shape.num_frames,
                    size=shape.size,
                    device=self._device,
                )
                found = self._shared.model(partial(self.stage.validate, batch))
                for key, value in found.items():
                    sums[key] = sums.get(key, 0.0) + value / plan.validation_batches
        figures.write("validation", self.step, self._elapsed, sums)
        self._window.restart()

    def save(self) -> None:
        """Writes a checkpoint; raises OutputError where that fails."""
        weights = self._shared.weights()
        with self._average.in_place():
            average = {key: value.detach().clone() for key, value in self._shared.weights().items()}
        state = {
            "stage": self.stage.name,
            "weights": weights,
            "average": average,
            "optimizer": self._shared.optimizer_state(),
            "step": self.step,
            "elapsed": self._elapsed,
            "phase": self._phase,
            "phase_step": self._phase_step,
            "watch": self._watch.counts.tolist(),
        }
        if self._accelerator.is_main_process:
            save_state(self.folder / "checkpoints", self.step, state)
        self._accelerator.wait_for_everyone()
        self._saved_at = self._elapsed
        self._window.restart()

    # --- begin and end ---------------------------------------------------------------------------------

    def check_folder(self, *, resume: bool) -> None:
        """Makes the folder, and sees that it is not another training's; raises TrainingError where it is."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.folder, error) from error
        if not resume and find_states(self.folder / "checkpoints"):
            raise TrainingError(f"{self.folder} holds a training already; add --resume, or choose another folder")

    def _load(self) -> None:
        checkpoints = self.folder / "checkpoints"
        state = load_state(checkpoints, self.stage.name)
        if state is None:
            return
        try:
            self._shared.load_weights(state["average"])
            self._average.take()
            self._shared.load_weights(state["weights"])
            self._shared.load_optimizer_state(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"the checkpoint in {checkpoints} is of a network of other sizes: {str(error).splitlines()[0]}; "
                f"resume with the configuration it began with (training.json)"
            ) from error
        self.step, self._phase_step = state["step"], state["phase_step"]
        self._elapsed = self._seconds_before = self._saved_at = state["elapsed"]
        total, row, _, first = state["watch"]
        self._watch.restore(total, row, first)
        self._phase = min(state["phase"], len(self.plan.stretches) - 1)
        if isinstance(self.stage, PhasedStage) and self._phase >= 0:
            self.stage.configure(self.plan.stretches[self._phase].stage)

    def _finish(self, figures: Figures) -> Path:
        if self._window.filled:
            self._log(figures)
        self._validate(figures)
        if not any(path.stem == f"step-{self.step:09d}" for path in find_states(self.folder / "checkpoints")):
            self.save()
        target = self.folder / self.stage.name
        shape, stage = self.plan.stretches[-1], self.stage
        with self._evaluation():
            if isinstance(stage, FinishingStage):
                count = self.plan.finish_batches
                batches = (self._make_batch(shape, number, shape.num_frames) for number in range(count))
                self._shared.model(partial(stage.finish, batches))
            weights = self._shared.weights()
            if self._accelerator.is_main_process:
                stage.export(target, weights)
        self._accelerator.wait_for_everyone()
        return target

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Inside: evaluation mode, no gradients, averaged weights."""
        modes = [(module, module.training) for module in self._shared.model.modules()]
        self._shared.model.eval()
        try:
            with torch.no_grad(), self._average.in_place():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def _flag(self, value: bool) -> Tensor:
        return torch.tensor(float(value), device=self._device)


class _Window:
    """Sums of figures on the device since the last log, and the time they took."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._last: dict[str, Tensor] = {}
        self._start = time.monotonic()
        self.clips = 0
        self.rate = 0.0

    def add(self, values: dict[str, Tensor], clips: int) -> None:
        keys = tuple(values)
        stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        stacked = torch.where(torch.isfinite(stacked), stacked, 0.0)
        before = self._sums.get(keys)
        self._sums[keys] = stacked if before is None else before + stacked
        self._counts[keys] = self._counts.get(keys, 0) + 1
        self.clips += clips

    @property
    def filled(self) -> bool:
        return bool(self._sums)

    def note(self, key: str, value: Tensor) -> None:
        """A figure of which the last value counts."""
        self._last[key] = value.float()

    def restart(self) -> None:
        """Something other than training took time: forget what was counted for the speed."""
        self.clips = 0
        self._start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def read(self, shared: Shared, counts: Tensor) -> tuple[dict[str, float], float, int]:
        """All figures in one transfer; the watch's counts as "_0" and so on."""
        names = [key for keys in self._sums for key in keys] + list(self._last)
        pieces = [total / self._counts[keys] for keys, total in self._sums.items()]
        vector = shared.mean(torch.cat([*pieces, *(value.reshape(1) for value in self._last.values())]))
        numbers: list[Any] = torch.cat([vector, counts]).tolist()
        names += [f"_{index}" for index in range(len(counts))]
        return dict(zip(names, numbers, strict=True)), self.rate, self.clips


@contextlib.contextmanager
def _fast_convolutions(device: torch.device) -> Iterator[None]:
    """Inside, cuDNN times its kernels once for each shape: shapes are few and fixed."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
