"""Steps that reuse what the transformer's blocks added in earlier steps.

What the blocks add to the tokens, their residual, changes slowly between neighbouring steps. A step that is spared adds
the last residual again (MagCache, arXiv 2506.09045), or a line through the last two (TaylorSeer, arXiv 2503.06923,
first order; here in the noise level, whose steps are uneven). Which steps are spared is decided before the job from
errors that :mod:`gen3r_core.execution.calibration` measured on the very model and schedule, so that the loop never
waits for a number.

diffusers has hooks for both. They count the steps themselves, so that a cancelled job leaves the next one out of step;
they do not know a batch that changes with guidance; and they keep blocks from being compiled whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.schedulers import FlowSolver

HIGHEST_ORDER = 1


def forecast(past: Sequence[tuple[float, Tensor]], level: float, order: int) -> Tensor:
    """The residual at a noise level from earlier ones.

    Args:
        past: noise levels and residuals, the newest last; at least ``order + 1``.
        level: where to.
        order: 0 repeats the newest, 1 draws a line through the newest two.
    """
    newest_level, newest = past[-1]
    if order == 0:
        return newest
    before_level, before = past[-2]
    return torch.lerp(newest.float(), before.float(), (level - newest_level) / (before_level - newest_level))


class ResidualCache:
    """Spares chosen steps the blocks.

    Args:
        skips: for each step whether it is spared; the first ``order + 1`` never can be.
        order: 0 or 1, see :func:`forecast`.
        levels: noise levels of the schedule that the choice is for, or None for any schedule of so many steps.

    Raises:
        InputError: the order is another, or one of the first steps shall be spared.
    """

    def __init__(self, skips: Sequence[bool], order: int = 0, levels: Sequence[float] | None = None) -> None:
        if order not in range(HIGHEST_ORDER + 1):
            raise InputError(f"residuals are forecast with order 0 or 1, got {order}")
        if any(skips[: order + 1]):
            raise InputError(f"the first {order + 1} steps must be computed: a forecast needs as many residuals")
        self.skips = list(skips)
        self.order = order
        self._levels = None if levels is None else list(levels)
        self._current: list[float] = []
        self._past: dict[str, list[tuple[float, Tensor]]] = {}

    def begin(self, solver: FlowSolver) -> None:
        """Forget the last job.

        Raises:
            InputError: the solver's schedule is not the one that this was made for.
        """
        self._past.clear()
        self._current = solver.sigmas.tolist()
        check_levels(self._current[:-1], len(self.skips) if self._levels is None else self._levels)

    def end(self) -> None:
        """Free the residuals."""
        self._past.clear()

    def through(self, index: int, branches: Sequence[str]) -> Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]:
        """See :class:`gen3r_core.denoising.StepCache`."""

        def take(tokens: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
            known = all(len(self._past.get(name, ())) > self.order for name in branches)
            level = self._current[index]
            if self.skips[index] and known:
                return tokens + torch.cat([forecast(self._past[name], level, self.order) for name in branches])
            result = run(tokens)
            added = (result - tokens).to(self._stored)
            for name, part in zip(branches, added.chunk(len(branches)), strict=True):
                history = self._past.setdefault(name, [])
                history.append((level, part))
                del history[: -self.order - 1]
            return result

        return take

    @property
    def _stored(self) -> torch.dtype:
        # Rounding adds 0.2 % to what is an approximation anyway, and halves 0.4 GiB a residual at full size.
        return torch.bfloat16


def check_levels(found: Sequence[float], wanted: Sequence[float] | int) -> None:
    """Refuse a schedule other than the one that was calibrated.

    Args:
        found: noise levels of the job.
        wanted: noise levels that were calibrated, or only their number.

    Raises:
        InputError: they differ.
    """
    count = wanted if isinstance(wanted, int) else len(wanted)
    same = len(found) == count
    if same and not isinstance(wanted, int):
        same = max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 1e-4
    if not same:
        raise InputError(
            f"the step cache was calibrated for a schedule of {count} steps, the job has another of {len(found)}; "
            f"calibrate for it with 'gen3r calibrate', or leave the calibration out"
        )
