"""The tree of frames and its recent past: what TF messages say, kept and asked for. No ROS in here.

Every frame has one parent. Between two known times a transform is interpolated (translation linearly, rotation
by slerp); beyond them it is not made up.
"""

from __future__ import annotations

import bisect
import math
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.geometry.poses import invert_poses, poses_from, quaternion_to_matrix, slerp

Matrix = NDArray[np.float64]
LARGEST_SAMPLES = 20_000
"""Of one frame: 10 s at 2 kHz."""
LARGEST_FRAMES = 2_000
_SECOND = 1_000_000_000
_RESTART = 5
_SHOWN = 12


class TransformError(Gen3RError):
    """There is no such transform.

    Attributes:
        may_come: whether waiting can help: it is newer than what is known, or a frame is not known yet.
    """

    def __init__(self, text: str, *, may_come: bool) -> None:
        super().__init__(text)
        self.may_come = may_come


@dataclass(frozen=True, eq=False)
class StampedTransform:
    """An answer.

    Attributes:
        T_target_source: ``[4, 4]`` float64, takes points from source to target; metres.
        stamp_ns: integer nanoseconds that it holds for: those asked for, or the newest; None where the newest was
            asked for and it holds always.
    """

    T_target_source: Matrix
    stamp_ns: int | None


@dataclass(eq=False)
class _Edge:
    """A frame in its parent; ``stamps`` ascend and go with ``values``."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    values: list[tuple[Matrix, Matrix]] = field(default_factory=list)
    behind: int = 0

    def at(self, stamp: int) -> Matrix:
        """Within what is known."""
        if self.static:
            return _rigid(*self.values[0])
        after = bisect.bisect_left(self.stamps, stamp)
        if self.stamps[after] == stamp:
            return _rigid(*self.values[after])
        (start, turned), (end, turned_more) = self.values[after - 1], self.values[after]
        first, second = self.stamps[after - 1], self.stamps[after]
        share = (stamp - first) / (second - first)
        return _rigid(start + share * (end - start), slerp(turned, turned_more, np.array(share)))


class TransformHistory:
    """Frames and where they were; may be used from several threads.

    Args:
        seconds: how long the past is kept, counted back from each frame's newest transform.

    Raises:
        InputError: ``seconds`` is not positive.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        if not 0 < seconds < 1e6:
            raise InputError(f"a history of transforms lasts some seconds, got {seconds}")
        self._keep = round(seconds * _SECOND)
        self._edges: dict[str, _Edge] = {}
        self._lock = threading.Lock()

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
        *,
        static: bool = False,
    ) -> bool:
        """Take in where a frame is.

        A frame that comes with another parent, or static after it moved, begins anew.

        Args:
            parent: frame that the numbers are in; a leading slash is dropped.
            child: frame that they place.
            stamp_ns: integer nanoseconds; of no matter for static ones.
            translation: x, y, z in metres.
            quaternion: x, y, z, w; brought to unit length.
            static: it holds always.

        Returns:
            whether it was taken: not if it is older than what is kept, or there already. Where one frame's
            transforms stay older, time has been set back, and it begins anew.

        Raises:
            InputError: no names, numbers that are no transform, a loop, or too many frames.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        value = _checked(parent, child, translation, quaternion)
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                self._check_loop(parent, child)
                if edge is None and len(self._edges) >= LARGEST_FRAMES:
                    raise InputError(f"there are more than {LARGEST_FRAMES} frames; {child} is not taken")
                edge = self._edges[child] = _Edge(parent, static)
            if static:
                edge.stamps, edge.values = [stamp_ns], [value]
                return True
            return self._insert(edge, stamp_ns, value)

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> StampedTransform:
        """Where a source frame is in a target frame.

        Args:
            target: frame of the result.
            source: frame that is looked for.
            stamp_ns: when, integer nanoseconds; None for the newest time at which all on the way is known.

        Raises:
            TransformError: saying in words what is missing.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            up, down = self._way(target, source, stamp_ns)
            moving = [self._edges[child] for child in (*up, *down) if not self._edges[child].static]
            stamp = stamp_ns
            if stamp is None:
                stamp = min((edge.stamps[-1] for edge in moving), default=None)
            if stamp is not None:
                self._check_known((*up, *down), target, source, stamp, asked=stamp_ns is not None)
            T_common_source, T_common_target = np.eye(4), np.eye(4)
            for child in up:
                T_common_source = self._edges[child].at(stamp or 0) @ T_common_source
            for child in down:
                T_common_target = self._edges[child].at(stamp or 0) @ T_common_target
        return StampedTransform(invert_poses(T_common_target) @ T_common_source, stamp)

    def frames(self) -> dict[str, str]:
        """Every frame's parent; frames without one are not keys."""
        with self._lock:
            return {child: edge.parent for child, edge in self._edges.items()}

    def clear(self) -> None:
        """Forget what moves, after a jump of the clock. Static transforms stay: nobody sends them again."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def _insert(self, edge: _Edge, stamp: int, value: tuple[Matrix, Matrix]) -> bool:
        if edge.stamps and stamp < edge.stamps[-1] - self._keep:
            edge.behind += 1
            if edge.behind < _RESTART:
                return False
            edge.stamps.clear()
            edge.values.clear()
        edge.behind = 0
        place = bisect.bisect_left(edge.stamps, stamp)
        if place < len(edge.stamps) and edge.stamps[place] == stamp:
            return False
        edge.stamps.insert(place, stamp)
        edge.values.insert(place, value)
        # The sample before what is kept stays, so that all of it can be interpolated.
        drop = max(0, bisect.bisect_right(edge.stamps, edge.stamps[-1] - self._keep) - 1)
        drop = max(drop, len(edge.stamps) - LARGEST_SAMPLES)
        if drop:
            del edge.stamps[:drop], edge.values[:drop]
        return True

    def _check_loop(self, parent: str, child: str) -> None:
        if child in self._chain(parent):
            raise InputError(
                f"the transform from {child} to {parent} would close a loop, as {parent} hangs from {child}; two nodes "
                f"publish TF in opposite directions"
            )

    def _chain(self, frame: str) -> list[str]:
        """A frame and all above it."""
        chain = [frame]
        while chain[-1] in self._edges:
            chain.append(self._edges[chain[-1]].parent)
        return chain

    def _way(self, target: str, source: str, stamp: int | None) -> tuple[list[str], list[str]]:
        """Frames below the nearest common ancestor: from source upwards, and from target upwards."""
        known = {*self._edges, *(edge.parent for edge in self._edges.values())}
        begin = _begin(target, source, stamp)
        for frame in (target, source):
            if frame not in known:
                names = sorted(known)
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                there = f"known are {', '.join(names[:_SHOWN])}{more}" if names else "no transform has come at all"
                raise TransformError(f"{begin}: nothing is known of {frame or 'a frame without a name'}; {there}",
                                     may_come=bool(frame))  # fmt: skip
        from_source, from_target = self._chain(source), self._chain(target)
        common = next((frame for frame in from_source if frame in from_target), None)
        if common is None:
            raise TransformError(
                f"{begin}: they are not connected; {source} hangs from {from_source[-1]}, "
                f"{target} from {from_target[-1]}",
                may_come=True,
            )
        return from_source[: from_source.index(common)], from_target[: from_target.index(common)]

    def _check_known(self, way: tuple[str, ...], target: str, source: str, stamp: int, *, asked: bool) -> None:
        missing, may_come = [], True
        for child in way:
            edge = self._edges[child]
            if edge.static or edge.stamps[0] <= stamp <= edge.stamps[-1]:
                continue
            first, last = seconds(edge.stamps[0]), seconds(edge.stamps[-1])
            when = f"at {first} only" if first == last else f"from {first} to {last}"
            missing.append(f"{child} in {edge.parent} is known {when}")
            may_come = may_come and stamp > edge.stamps[-1]
        if missing:
            begin = _begin(target, source, stamp if asked else None)
            raise TransformError(f"{begin}: {'; '.join(missing)}", may_come=may_come)


def seconds(nanoseconds: int) -> str:
    """Integer nanoseconds as seconds, in words of three decimals."""
    return f"{nanoseconds / _SECOND:.3f}"


def _rigid(translation: Matrix, quaternion: Matrix) -> Matrix:
    return poses_from(quaternion_to_matrix(quaternion), translation)


def _begin(target: str, source: str, stamp: int | None) -> str:
    return f"no transform from {source} to {target}{'' if stamp is None else f' at {seconds(stamp)}'}"


def _checked(
    parent: str, child: str, translation: tuple[float, float, float], quaternion: tuple[float, float, float, float]
) -> tuple[Matrix, Matrix]:
    if not parent or not child or parent == child:
        raise InputError(f"a transform leads from one frame to another, got {child!r} in {parent!r}")
    length = math.hypot(*quaternion)
    if not all(map(math.isfinite, (*translation, *quaternion))) or abs(length - 1) > 0.05:
        raise InputError(
            f"the transform from {child} to {parent} has the translation {translation} and the quaternion "
            f"{quaternion}, which is no rotation of finite numbers"
        )
    return np.array(translation, dtype=np.float64), np.array(quaternion, dtype=np.float64) / length
