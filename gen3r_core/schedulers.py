"""Flow-matching solvers: Euler as published, UniPC and DPM++ as upstream sets them up.

All three are diffusers' schedulers; what upstream changes is which noise levels they are given.
A level ``sigma`` goes from 1 (noise) to 0; the network sees ``1000 * sigma``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from gen3r_core.errors import InputError

SOLVERS = ("euler", "unipc", "dpm++")
MULTISTEP_SHIFT = 5.0
"""Shift of UniPC and DPM++ where none is asked for (upstream's default; Euler's comes from the checkpoint)."""


class FlowSolver:
    """One run of a solver over ``num_steps`` steps.

    Attributes:
        timesteps: ``[num_steps]`` on the host, what the network is told (float for Euler, whole
            numbers for the others).
        sigmas: ``[num_steps + 1]`` float32 on the host, noise levels with the final 0.
        shift: the one in force, asked for or by default.
    """

    def __init__(
        self, name: str, num_steps: int, *, shift: float | None = None, euler: Mapping[str, Any] | None = None
    ) -> None:
        """Prepare the noise levels.

        Args:
            name: one of :data:`SOLVERS`.
            num_steps: network evaluations, at least 1.
            shift: moves steps towards noise (above 1); None takes the checkpoint's for Euler and
                :data:`MULTISTEP_SHIFT` for the others.
            euler: the checkpoint's scheduler configuration.

        Raises:
            InputError: unknown solver, fewer than one step, or a shift that is not positive.
        """
        if num_steps < 1:
            raise InputError(f"the number of steps must be at least 1, got {num_steps}")
        if shift is not None and not 0 < shift < float("inf"):
            raise InputError(f"the shift of the noise levels must be positive, got {shift}")
        config = dict(euler or {})
        self._name = name
        self._remembered: dict[int, Tensor] = {}
        train_steps = int(config.get("num_train_timesteps", 1000))
        if name == "euler":
            self._scheduler: Any = self._euler(config, num_steps, shift)
        elif name == "unipc":
            self._scheduler = self._unipc(train_steps, num_steps, shift or MULTISTEP_SHIFT)
        elif name == "dpm++":
            self._scheduler = self._dpm(train_steps, num_steps, shift or MULTISTEP_SHIFT)
        else:
            raise InputError(f"scheduler {name!r} is unknown; choose one of: {', '.join(SOLVERS)}")
        self._scheduler.set_begin_index(0)
        self.timesteps: Tensor = self._scheduler.timesteps
        self.sigmas: Tensor = self._scheduler.sigmas
        chosen = self._scheduler.config
        self.shift = float(chosen["flow_shift" if "flow_shift" in chosen else "shift"])

    @staticmethod
    def _euler(config: dict[str, Any], num_steps: int, shift: float | None) -> FlowMatchEulerDiscreteScheduler:
        # The shift applies to the training table and again to the line between its ends, as published.
        if shift is not None:
            config["shift"] = shift
        known = signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        scheduler = FlowMatchEulerDiscreteScheduler(**{key: value for key, value in config.items() if key in known})
        mu = 1.0 if config.get("use_dynamic_shifting") else None
        scheduler.set_timesteps(num_steps, device="cpu", mu=mu)
        return scheduler

    @staticmethod
    def _unipc(train_steps: int, num_steps: int, shift: float) -> UniPCMultistepScheduler:
        scheduler = UniPCMultistepScheduler(
            num_train_timesteps=train_steps, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
        # From the highest level of the (float32) training table, 1 - 1/1000, down to 0.
        highest = float(np.float32(1 - 1 / train_steps))
        scheduler.set_timesteps(sigmas=np.linspace(highest, 0, num_steps + 1)[:-1], device="cpu")
        return scheduler

    @staticmethod
    def _dpm(train_steps: int, num_steps: int, shift: float) -> DPMSolverMultistepScheduler:
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=train_steps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            algorithm_type="dpmsolver++",
        )
        scheduler.set_timesteps(num_steps, device="cpu")
        # It takes no levels from outside; upstream's start at 1 exactly.
        levels = np.linspace(1, 0, num_steps + 1)
        levels = shift * levels / (1 + (shift - 1) * levels)
        scheduler.sigmas = torch.from_numpy(levels.astype(np.float32))
        scheduler.timesteps = torch.from_numpy(levels[:-1] * train_steps).to(torch.int64)
        return scheduler

    @property
    def training_sigmas(self) -> Tensor:
        """``[num_train_timesteps]`` noise levels that Euler's model is trained on, highest first."""
        config = self._scheduler.config
        levels = np.linspace(1, config.num_train_timesteps, config.num_train_timesteps, dtype=np.float32)[::-1]
        sigmas = torch.from_numpy(levels.copy()) / config.num_train_timesteps
        shifted: Tensor = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        return shifted

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, flow: Tensor, index: int, latents: Tensor) -> Tensor:
        """Latents one level further.

        Args:
            flow: ``[B, C, f, h, w]`` prediction of the network (noise minus clean latents).
            index: which step, counted from 0 and given in order.
            latents: ``[B, C, f, h, w]`` current latents, float32.

        Returns:
            ``[B, C, f, h, w]`` float32.
        """
        if self._name == "euler":
            result: Tensor = self._scheduler.step(flow, self.timesteps[index], latents, return_dict=False)[0]
            return result
        return self._multistep(flow, index, latents)

    def _multistep(self, flow: Tensor, index: int, latents: Tensor) -> Tensor:
        """A step of a solver that remembers.

        Whatever it returns and remembers is a sum of tensors with factors that only depend on the noise levels.
        diffusers computes the factors on the tensors' device, copying and solving small systems there, for which the
        host waits. So its scheduler runs on unit vectors on the host, and the factors are applied here.
        """
        scheduler = self._scheduler
        outputs = [place for place, value in enumerate(scheduler.model_outputs) if value is not None]
        tensors = [latents.float(), flow.float(), *(self._remembered[place] for place in outputs)]
        sampled = getattr(scheduler, "last_sample", None) is not None
        if sampled:
            tensors.append(self._remembered[-1])
        units = list(torch.eye(len(tensors), dtype=torch.float64)[:, None])
        for place, unit in zip(outputs, units[2:], strict=False):
            scheduler.model_outputs[place] = unit
        if sampled:
            scheduler.last_sample = units[-1]
        factors = scheduler.step(units[1], self.timesteps[index], units[0], return_dict=False)[0]
        kept = {place: value for place, value in enumerate(scheduler.model_outputs) if value is not None}
        if getattr(scheduler, "last_sample", None) is not None:
            kept[-1] = scheduler.last_sample
        self._remembered = {place: _weighted(value, tensors) for place, value in kept.items()}
        return _weighted(factors, tensors)


def _weighted(factors: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors times ``[1, n]`` factors on the host; a tensor itself where that is all there is to it."""
    numbers: list[float] = factors[0].tolist()
    found = [(factor, tensor) for factor, tensor in zip(numbers, tensors, strict=True) if factor]
    if len(found) == 1 and found[0][0] == 1:
        return found[0][1]
    total: Tensor = found[0][1] * found[0][0]
    for factor, tensor in found[1:]:
        total = total.add(tensor, alpha=factor)
    return total
