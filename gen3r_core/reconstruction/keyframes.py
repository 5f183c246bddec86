"""Choosing, as images arrive, the few that are worth reconstructing from.

An image becomes a keyframe when the camera has moved (by its pose, or else by how the image has changed) or when
enough time has passed, if it is sharp. Each decision costs well under a millisecond, and an image is looked at only
if its time and pose make it a candidate.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, checked_poses, rotation_angles
from gen3r_core.reconstruction.thumbnails import Look, image_change, look_at

__all__ = ["Decision", "Keyframe", "KeyframeOptions", "KeyframeSelector", "Verdict"]

P = TypeVar("P")
Thumbnail = NDArray[Any] | Callable[[], NDArray[Any]]
"""What :func:`~gen3r_core.reconstruction.thumbnails.look_at` takes, or a function that makes it when it is needed."""

_SECOND = 1_000_000_000
_REMEMBERED = 31
"""Sharpnesses whose median an image is compared with."""

_ENOUGH = 5
"""Sharpnesses needed before an image is called blurred."""


class Verdict(StrEnum):
    """Why an image became a keyframe, or did not."""

    FIRST = "first"
    MOVED = "moved"
    TURNED = "turned"
    CHANGED = "changed"
    DUE = "due"
    OUT_OF_ORDER = "out of order"
    TOO_SOON = "too soon"
    UNMOVED = "unmoved"
    BLURRED = "blurred"

    @property
    def accepted(self) -> bool:
        """Whether it makes a keyframe."""
        return self in _ACCEPTING


_ACCEPTING = frozenset({Verdict.FIRST, Verdict.MOVED, Verdict.TURNED, Verdict.CHANGED, Verdict.DUE})


@dataclass(frozen=True)
class KeyframeOptions:
    """When an image becomes a keyframe.

    Attributes:
        translation_m: metres from the last keyframe.
        rotation_deg: degrees from it.
        change: :func:`~gen3r_core.reconstruction.thumbnails.image_change` from it, where one of both has no pose.
        min_interval_s: seconds from it before which no image is taken.
        max_interval_s: seconds from it after which one is taken in any case. Where the camera has not moved, it
            takes the last one's place: a robot that waits keeps what it has seen, and a fresh image besides.
        sharpness: share of the median sharpness under which an image is blurred.
        sharpness_wait_s: seconds that a blurred image waits for a sharper one; then the sharpest is taken.
        capacity: keyframes that are kept, the newest ``recent`` and the oldest of all among them. Of the others the
            one goes that is least far from its neighbours, so that what is kept spreads over the whole way.
        recent: see there; at least the window that is reconstructed.
    """

    translation_m: float = 0.25
    rotation_deg: float = 12.0
    change: float = 0.2
    min_interval_s: float = 0.2
    max_interval_s: float = 5.0
    sharpness: float = 0.5
    sharpness_wait_s: float = 0.5
    capacity: int = 32
    recent: int = 8

    def __post_init__(self) -> None:
        for name in ("translation_m", "rotation_deg", "change", "max_interval_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("min_interval_s", "sharpness_wait_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if not 0 <= self.sharpness < 1:
            raise InputError(f"sharpness is a share of the median, 0 to less than 1, got {self.sharpness}")
        if self.min_interval_s > self.max_interval_s:
            raise InputError(
                f"min_interval_s {self.min_interval_s} is over max_interval_s {self.max_interval_s}; lower it"
            )
        if not 1 <= self.recent <= self.capacity:
            raise InputError(f"recent must be 1 to capacity, got recent {self.recent} and capacity {self.capacity}")


@dataclass(frozen=True, eq=False)
class Keyframe(Generic[P]):
    """A chosen image.

    Attributes:
        stamp_ns: when it was taken, integer nanoseconds.
        payload: what the caller needs to get at the image, such as its undecoded message.
        T_world_cam: ``[4, 4]`` float64 camera to world, metres; None where it was not known.
        look: what is remembered of it.
        verdict: why it was chosen.
    """

    stamp_ns: int
    payload: P
    T_world_cam: Array | None
    look: Look
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Decision(Generic[P]):
    """What became of an image.

    Attributes:
        verdict: of the image that was offered.
        keyframe: the new keyframe, if there is one. After a wait for sharpness it may be an earlier image.
        restarted: stamps went back so far that everything before was forgotten.
    """

    verdict: Verdict
    keyframe: Keyframe[P] | None
    restarted: bool = False


class KeyframeSelector(Generic[P]):
    """Chooses keyframes and keeps a bounded number of them.

    Not safe for several threads at once: call it from one callback group.

    Args:
        options: when to choose.

    Attributes:
        counts: images by verdict, "replaced" and "evicted" keyframes, and "restarts"; never reset.
    """

    def __init__(self, options: KeyframeOptions | None = None) -> None:
        self.options = options or KeyframeOptions()
        self.counts: Counter[str] = Counter()
        self._keyframes: list[Keyframe[P]] = []
        self._gaps: list[float] = []  # how far each lies from the one before, in thresholds of motion
        self._sharpness: deque[float] = deque(maxlen=_REMEMBERED)
        self._anchor: Keyframe[P] | None = None  # what motion is measured from
        self._waiting: Keyframe[P] | None = None  # the sharpest of the blurred candidates
        self._waiting_since = 0
        self._newest_ns: int | None = None

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe[P]]:
        """Oldest first."""
        return iter(tuple(self._keyframes))

    def window(self, count: int) -> tuple[Keyframe[P], ...]:
        """The newest ``count`` keyframes, or all there are, oldest first."""
        return tuple(self._keyframes[-count:]) if count > 0 else ()

    def clear(self) -> None:
        """Forgets keyframes and what images were like, but not the counts."""
        self._keyframes.clear()
        self._gaps.clear()
        self._sharpness.clear()
        self._anchor = self._waiting = self._newest_ns = None

    def offer(
        self, stamp_ns: int, payload: P, thumbnail: Thumbnail, T_world_cam: ArrayLike | None = None
    ) -> Decision[P]:
        """Decides about an image.

        Args:
            stamp_ns: when it was taken, integer nanoseconds. Images out of order are dropped; stamps that go back by
                more than ``max_interval_s`` (a bag or simulation that began again) forget everything before.
            payload: kept as it is, only with a keyframe or while waiting for a sharper image.
            thumbnail: see :data:`Thumbnail`. Called, or looked at, only if time and pose make the image a candidate.
            T_world_cam: ``[4, 4]`` camera to a fixed world frame, metres; None where it is not known.

        Returns:
            The decision.

        Raises:
            InputError: if the pose is not rigid or the thumbnail is no grey image. Nothing has changed then.
        """
        pose = None if T_world_cam is None else checked_poses(np.asarray(T_world_cam)[None], "camera pose")[0]
        back = 0 if self._newest_ns is None else self._newest_ns - stamp_ns
        restarted = back > self.options.max_interval_s * _SECOND
        if self._newest_ns is not None and back >= 0 and not restarted:
            return Decision(self._count(Verdict.OUT_OF_ORDER), None)
        verdict, look = Verdict.FIRST, None
        if not restarted:
            verdict, look = self._candidate(stamp_ns, pose, thumbnail)
        if verdict.accepted:
            look = look or _look(thumbnail)
        if restarted:
            self.clear()
            self.counts["restarts"] += 1
        self._newest_ns = stamp_ns
        if look is None or not verdict.accepted:
            return Decision(self._count(verdict), None)
        chosen = self._sharp_enough(Keyframe(stamp_ns, payload, pose, look, verdict))
        if chosen is None:
            return Decision(self._count(Verdict.BLURRED), None, restarted)
        self._add(chosen)
        if chosen.stamp_ns != stamp_ns:  # counted as blurred when it came; this one takes its place
            self.counts[chosen.verdict.value] += 1
            return Decision(Verdict.BLURRED, chosen, restarted)
        return Decision(self._count(verdict), chosen, restarted)

    def _candidate(self, stamp_ns: int, pose: Array | None, thumbnail: Thumbnail) -> tuple[Verdict, Look | None]:
        """Whether time and motion speak for an image, and what it looks like if that had to be found out."""
        if self._anchor is None:
            # Before the first keyframe an image may be waiting; nothing else is known.
            return Verdict.FIRST, None
        elapsed = stamp_ns - self._keyframes[-1].stamp_ns
        if elapsed < self.options.min_interval_s * _SECOND:
            return Verdict.TOO_SOON, None
        verdict, look = self._motion(self._anchor, pose, thumbnail)
        if verdict is Verdict.UNMOVED and elapsed >= self.options.max_interval_s * _SECOND:
            verdict = Verdict.DUE
        if verdict is Verdict.UNMOVED and self._waiting is not None:
            verdict = self._waiting.verdict  # a sharper image than the one that waits is welcome from anywhere
        return verdict, look

    def _motion(self, anchor: Keyframe[P], pose: Array | None, thumbnail: Thumbnail) -> tuple[Verdict, Look | None]:
        if pose is not None and anchor.T_world_cam is not None:
            metres, degrees = _moved(anchor.T_world_cam, pose)
            if metres >= self.options.translation_m:
                return Verdict.MOVED, None
            return (Verdict.TURNED if degrees >= self.options.rotation_deg else Verdict.UNMOVED), None
        look = _look(thumbnail)
        changed = image_change(anchor.look, look) >= self.options.change
        return (Verdict.CHANGED if changed else Verdict.UNMOVED), look

    def _sharp_enough(self, candidate: Keyframe[P]) -> Keyframe[P] | None:
        """The keyframe to take now: the candidate, or the sharpest that waited long enough; None to wait on."""
        known = tuple(self._sharpness)
        self._sharpness.append(candidate.look.sharpness)
        limit = self.options.sharpness * float(np.median(known)) if len(known) >= _ENOUGH else 0.0
        if candidate.look.sharpness < limit:
            if self._waiting is None:
                self._waiting, self._waiting_since = candidate, candidate.stamp_ns
            elif candidate.look.sharpness >= self._waiting.look.sharpness:
                self._waiting = candidate
            if candidate.stamp_ns - self._waiting_since < self.options.sharpness_wait_s * _SECOND:
                return None
            candidate = self._waiting
        self._waiting = None
        return candidate

    def _add(self, keyframe: Keyframe[P]) -> None:
        last = self._keyframes[-1] if self._keyframes else None
        if last is not None and keyframe.verdict is Verdict.DUE:
            # Not moved. The anchor stays, so that a slow creep still adds up to motion.
            self._keyframes[-1] = keyframe
            self.counts["replaced"] += 1
            if self._anchor is not None and (self._anchor.T_world_cam is not None or keyframe.T_world_cam is None):
                return
        else:
            self._keyframes.append(keyframe)
            self._gaps.append(0.0 if last is None else self._distance(last, keyframe))
        self._anchor = keyframe
        if len(self._keyframes) > self.options.capacity:
            self._evict()

    def _evict(self) -> None:
        middle = range(1, len(self._keyframes) - self.options.recent)
        # Where recent fills the capacity there is no middle: then the oldest goes.
        at = min(middle, key=lambda i: self._gaps[i] + self._gaps[i + 1], default=0)
        self._gaps[at + 1] += self._gaps[at]
        del self._keyframes[at], self._gaps[at]
        self.counts["evicted"] += 1

    def _distance(self, first: Keyframe[P], second: Keyframe[P]) -> float:
        """How far two keyframes lie apart, in units of the thresholds."""
        if first.T_world_cam is None or second.T_world_cam is None:
            return image_change(first.look, second.look) / self.options.change
        metres, degrees = _moved(first.T_world_cam, second.T_world_cam)
        return metres / self.options.translation_m + degrees / self.options.rotation_deg

    def _count(self, verdict: Verdict) -> Verdict:
        self.counts[verdict.value] += 1
        return verdict


def _look(thumbnail: Thumbnail) -> Look:
    return look_at(thumbnail() if callable(thumbnail) else thumbnail)


def _moved(first: Array, second: Array) -> tuple[float, float]:
    """Metres and degrees between two poses."""
    metres = float(np.linalg.norm(second[:3, 3] - first[:3, 3]))
    return metres, math.degrees(float(rotation_angles(first[:3, :3].T @ second[:3, :3])))
