"""Named ways to denoise faster than exactly, each put on a pipeline and taken off again.

Their prices are to be measured for each checkpoint: ``gen3r bench --errors`` gives the latents' error, ``gen3r eval``
figures of merit. ``exact`` is the default, and the only profile whose result is the published model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from gen3r_core.errors import InputError
from gen3r_core.multiples import FOLD, SIZE_MULTIPLE

if TYPE_CHECKING:  # those who only choose a profile need no torch
    from gen3r_core.execution.calibration import Calibration
    from gen3r_core.execution.thinned_keys import ThinnedKeys
    from gen3r_core.execution.weights import EightBitWeights
    from gen3r_core.jobs import Sampling
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.serving.requests import PredictOptions

Options = TypeVar("Options", "Sampling", "PredictOptions")
ALL_VIEW = "allview"
"""The task whose frames are its images."""


@dataclass(frozen=True)
class Profile:
    """What is given up for speed.

    Attributes:
        name: of the profile.
        words: what it means, for people.
        steps: network evaluations; None leaves them as they are.
        scheduler: solver; None leaves it.
        guided_share: see :class:`gen3r_core.jobs.Sampling`.
        spared_error: how much error steps may add up that are spared the blocks (see
            :meth:`gen3r_core.execution.calibration.Calibration.choose`); None spares none.
        fp8: whether the blocks multiply in float8, where the device can.
        key_squares: of how many by how many patches one is a key in VGGT's attention across frames (see
            :mod:`gen3r_core.execution.thinned_keys`); 1 keeps all.
        side_share, frames_share: size and frames of the result over the usual ones.
        limit: largest error of the latents against ``exact`` that is accepted (see
            :class:`gen3r_core.execution.trajectory.TrajectoryError`); 0 where sizes differ and nothing can be compared.
    """

    name: str
    words: str
    steps: int | None = None
    scheduler: str | None = None
    guided_share: tuple[float, float] = (0.0, 1.0)
    spared_error: float | None = None
    fp8: bool = False
    key_squares: int = 1
    side_share: float = 1.0
    frames_share: float = 1.0
    limit: float = 0.0

    @property
    def comparable(self) -> bool:
        """Whether its latents have the shape of the exact ones."""
        return self.side_share == self.frames_share == 1

    def sampling(self, base: Options, *, task: str, num_frames: int, image_size: tuple[int, int]) -> Options:
        """The options of a job, or of a request for one, under this profile.

        Args:
            base: as asked for. Steps, solver, size and frames of the profile take its place; fewer steps stay fewer.
            task: of the job; an allview job keeps its frames, which are its images.
            num_frames: the model's, where ``base`` has none.
            image_size: likewise ``(height, width)``.
        """
        values = replace(base, guided_share=self.guided_share)
        if self.steps is not None:
            values = replace(values, steps=min(self.steps, base.steps))
        if self.scheduler is not None and self.scheduler != base.scheduler:
            values = replace(values, scheduler=self.scheduler, shift=None)
        if self.side_share < 1:
            height, width = base.size or image_size
            values = replace(values, size=(_side(height * self.side_share), _side(width * self.side_share)))
        if self.frames_share < 1 and task != ALL_VIEW:
            frames = base.num_frames or num_frames
            fewer = 1 + FOLD * round((frames - 1) * self.frames_share / FOLD)
            values = replace(values, num_frames=min(frames, max(1 + FOLD, fewer)))
        return values

    def apply(self, pipeline: Gen3RPipeline, calibration: Calibration | None = None) -> AppliedProfile:
        """Put the profile on a pipeline.

        Args:
            pipeline: to be changed until the result is removed.
            calibration: for this profile's schedule; without it no step is spared.
        """
        return AppliedProfile(self, pipeline, calibration)


def _side(pixels: float) -> int:
    return max(1, round(pixels / SIZE_MULTIPLE)) * SIZE_MULTIPLE


class AppliedProfile:
    """A profile on a pipeline; leaving the context, or :meth:`remove`, restores the pipeline exactly."""

    def __init__(self, profile: Profile, pipeline: Gen3RPipeline, calibration: Calibration | None) -> None:
        self._pipeline = pipeline
        self._cache = pipeline.cache
        self._weights: EightBitWeights | None = None
        self._thinned: ThinnedKeys | None = None
        if profile.spared_error is not None and calibration is not None:
            pipeline.cache = calibration.cache(profile.spared_error)
        from gen3r_core.execution.thinned_keys import ThinnedKeys
        from gen3r_core.execution.weights import EightBitWeights, multiplies_fp8

        if profile.key_squares > 1:
            self._thinned = ThinnedKeys(pipeline.vggt, profile.key_squares)
        if profile.fp8 and multiplies_fp8(pipeline.device):  # pragma: gpu-only
            self._weights = EightBitWeights(pipeline.transformer.blocks, "fp8", scaled_product=True)
            pipeline.placement.forget(pipeline.transformer)

    def remove(self) -> None:
        """Restore the pipeline; doing so twice is no mistake."""
        self._pipeline.cache = self._cache
        if self._thinned is not None:
            self._thinned.remove()
            self._thinned = None
        if self._weights is not None:  # pragma: gpu-only
            self._weights.remove()
            self._pipeline.placement.forget(self._pipeline.transformer)
            self._weights = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("exact", "the published model's own sampling"),
        Profile(
            "balanced",
            "UniPC with 24 steps, guidance on the first 80 %, similar steps spared",
            steps=24,
            scheduler="unipc",
            guided_share=(0.0, 0.8),
            spared_error=0.08,
            limit=0.1,
        ),
        Profile(
            "fast",
            "UniPC with 14 steps, guidance on the first 60 %, similar steps spared, float8 products on newer GPUs, "
            "a quarter of VGGT's keys",
            steps=14,
            scheduler="unipc",
            guided_share=(0.0, 0.6),
            spared_error=0.15,
            fp8=True,
            key_squares=2,
            limit=0.2,
        ),
        Profile(
            "preview",
            "UniPC with 8 steps, guidance on the first half, 0.6 of the side, a third of the frames, "
            "a quarter of VGGT's keys",
            steps=8,
            scheduler="unipc",
            guided_share=(0.0, 0.5),
            fp8=True,
            key_squares=2,
            side_share=0.6,
            frames_share=1 / 3,
        ),
    )
}
"""By name, from exact to fastest."""


def profile_named(name: str) -> Profile:
    """One of :data:`PROFILES`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PROFILES:
        raise InputError(f"profile {name!r} is unknown; choose one of: {', '.join(PROFILES)}")
    return PROFILES[name]
