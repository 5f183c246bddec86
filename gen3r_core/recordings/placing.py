"""Where cameras are at the stamps of their images, from recorded TF, odometry or poses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.geometry.transform_history import TransformError, TransformHistory
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.cameras import Camera
from gen3r_core.recordings.losses import SECOND
from gen3r_core.recordings.messages import RawMessage
from gen3r_core.recordings.recording import Item, Recording

AUTO = "auto"
NONE = "none"
_KEPT_S = 20.0
_FARTHEST = 1e9
"""Metres; squares of damaged numbers would overflow."""

_SURVEY_NS = 30 * SECOND


class Placing:
    """Takes in what a recording says of frames, and places cameras.

    Poses come from TF where it says how the camera moves. Where TF has only what is mounted where, or nothing, they
    come from odometry.

    Args:
        recording: open. Its static transforms, and the first 30 s of the others, are looked at now.
        cameras: that are to be placed.
        source: "auto", "none", or a stream of odometry or poses. A pose message names no frame that it places; it is
            taken for the camera's.
        world: frame of the poses; None for the one that the camera's frames hang from.

    Attributes:
        names: streams to :meth:`feed`; empty where nothing places the cameras.
        world: frame of the poses; None where there are none.
        why_not: why there are none, in words; empty where there are.
        counts: what could not be taken in, by reason.

    Raises:
        InputError: a source or world that is not there, or several odometries and none named.
    """

    def __init__(
        self, recording: Recording, cameras: Sequence[Camera], source: str = AUTO, world: str | None = None
    ) -> None:
        self.names: list[str] = []
        self.world: str | None = None
        self.why_not = ""
        self.counts: Counter[str] = Counter()
        self._static: list[Item] = []
        self._frames = [camera.frame_id for camera in cameras]
        self._history = TransformHistory(_KEPT_S)
        if source == NONE:
            self.why_not = "poses are not wanted"
            return
        tf, static = recording.of_kind("tf"), recording.of_kind("tf_static")
        self._static = list(recording.items([stream.name for stream in static])) if static else []
        for item in self._static:
            self.feed(item)
        self._choose(recording, [stream.name for stream in tf], source)
        if not self.names:
            return
        end = None if recording.start_ns is None else recording.start_ns + _SURVEY_NS
        for item in recording.items(self.names, end_ns=end):
            self.feed(item)
        self._find_world(recording, world)
        self.clear()

    def feed(self, item: Item) -> None:
        """Take in a message of one of the streams."""
        if not isinstance(item.content, RawMessage):
            return
        try:
            placed = item.content.placements()
        except MessageError:
            self.counts["damaged transforms"] += 1
            return
        for one in placed:
            child = one.child or (self._frames[0] if len(self._frames) == 1 else "")
            try:
                if max(map(abs, one.translation)) > _FARTHEST:
                    raise InputError(f"{child} is {one.translation} m from {one.parent}")
                self._history.add(
                    one.parent, child, one.stamp_ns, one.translation, one.quaternion,
                    static=item.stream.kind == "tf_static",
                )  # fmt: skip
            except InputError:
                self.counts["transforms that are none"] += 1

    def look_up(self, frame: str, stamp_ns: int) -> tuple[Array | None, bool]:
        """Where a camera was.

        Args:
            frame: of the camera.
            stamp_ns: when, integer nanoseconds.

        Returns:
            ``T_world_cam`` ``[4, 4]`` float64 metres, or None; and whether it may become known with what comes next.
        """
        if self.world is None:
            return None, False
        try:
            return self._history.lookup(self.world, frame, stamp_ns).T_target_source, False
        except TransformError as error:
            return None, error.may_come

    def clear(self) -> None:
        """Forget what moves, where stamps jump or another pass begins."""
        self._history = TransformHistory(_KEPT_S)
        for item in self._static:
            self.feed(item)

    def _choose(self, recording: Recording, tf: list[str], source: str) -> None:
        if source != AUTO:
            stream = recording.stream(source)
            if stream.kind not in ("odometry", "pose", "tf"):
                raise InputError(
                    f"{recording.path}: {source} is of kind {stream.kind}; poses come from odometry or pose"
                )
            self.names = [source] if stream.kind != "tf" else tf
            return
        if tf and self._moved_by(recording, tf):
            self.names = tf
            return
        odometry = [stream.name for stream in recording.of_kind("odometry")]
        if len(odometry) > 1:
            named = " or ".join(f"--poses {name}" for name in odometry)
            raise InputError(
                f"{recording.path}: there are {len(odometry)} odometries; name one ({named}), or give --poses none"
            )
        self.names = [*odometry, *tf] if odometry else []
        if not odometry:
            self.why_not = "TF does not say how the camera moves" if tf else "there is neither TF nor odometry"

    def _moved_by(self, recording: Recording, tf: list[str]) -> bool:
        """Whether a camera hangs from a frame that TF moves."""
        parents: dict[str, str] = {}
        moving = set()
        end = None if recording.start_ns is None else recording.start_ns + _SURVEY_NS
        for item in recording.items(tf, end_ns=end):
            if isinstance(item.content, RawMessage):
                try:
                    for one in item.content.placements():
                        child = one.child.lstrip("/")
                        parents[child] = one.parent.lstrip("/")
                        moving.add(child)
                except MessageError:
                    continue
        parents = {**parents, **self._history.frames()}
        for frame in self._frames:
            seen: set[str] = set()
            while frame in parents and frame not in seen:
                if frame in moving:
                    return True
                seen.add(frame)
                frame = parents[frame]  # noqa: PLW2901 - upwards
        return False

    def _find_world(self, recording: Recording, world: str | None) -> None:
        parents = self._history.frames()
        known = {*parents, *parents.values()}
        roots = []
        for frame in self._frames:
            root = frame
            while root in parents:
                root = parents[root]
            roots.append(root)
        if world is not None:
            if world.lstrip("/") not in known:
                raise InputError(
                    f"{recording.path}: no frame is called {world!r}; there are {', '.join(sorted(known))}"
                )
            self.world = world.lstrip("/")
        elif all(frame in known for frame in self._frames) and len(set(roots)) == 1:
            self.world = roots[0]
        else:
            missing = [frame or "(no name)" for frame in self._frames if frame not in known]
            if missing:
                self.why_not = (
                    f"nothing is said of the frame {', '.join(missing)}; known are {', '.join(sorted(known))}"
                )
            else:
                self.why_not = f"the cameras hang from different frames: {', '.join(sorted(set(roots)))}"
            self.names = []
