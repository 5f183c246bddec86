"""Images of a recording, one by one, with what is known of each: time, intrinsics, pose, depth. Nothing is decoded."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.cameras import Camera, find_cameras
from gen3r_core.recordings.losses import SECOND
from gen3r_core.recordings.messages import RawMessage
from gen3r_core.recordings.pictures import MessageDepth, MessagePicture, Picture, Still
from gen3r_core.recordings.placing import AUTO, Placing
from gen3r_core.recordings.recording import Item, Recording

_PATIENCE_NS = SECOND
_WAITING_BYTES = 64 * 2**20
_DEPTH_APART_NS = SECOND // 20
_JUMP_NS = SECOND


@dataclass(frozen=True, eq=False)
class Shot:
    """An image.

    Attributes:
        camera: name of its camera.
        number: its place among the camera's images, from 0.
        stamp_ns: when it was taken, integer nanoseconds.
        picture: not decoded yet.
        T_world_cam: ``[4, 4]`` float64 camera to world, OpenCV axes; None where it is not known.
        model: intrinsics; None where they are not known.
        depth: the depth image that was taken with it; None where there is none.
    """

    camera: str
    number: int
    stamp_ns: int
    picture: Picture
    T_world_cam: Array | None = None
    model: CameraModel | None = None
    depth: MessageDepth | None = None


@dataclass(frozen=True)
class ShotOptions:
    """What to read.

    Attributes:
        cameras: see :func:`~gen3r_core.recordings.cameras.find_cameras`.
        depth: see there.
        poses: "auto", "none", or a stream; see :class:`~gen3r_core.recordings.placing.Placing`.
        world: frame of the poses; None for that of the recording.
        start_s: seconds from the beginning of the recording; None for its beginning.
        end_s: the same; None for its end.
        every: step: 1 for all images, 2 for every other one of each camera.
    """

    cameras: tuple[str, ...] = ()
    depth: str | None = None
    poses: str = AUTO
    world: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every {self.every}th image cannot be taken; the step must be 1 or more")


@dataclass(eq=False)
class _Waiting:
    """An image whose pose or depth may still come."""

    camera: Camera
    number: int
    stamp_ns: int
    received_ns: int
    content: RawMessage | Still

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.content.picture.bytes if isinstance(self.content, Still) else len(self.content.data)

    def shot(self, pose: Array | None, depth: MessageDepth | None) -> Shot:
        """The image with all that is known of it; a still says it itself."""
        camera, content = self.camera, self.content
        if isinstance(content, Still):
            return Shot(camera.name, self.number, self.stamp_ns, content.picture, content.T_world_cam, content.camera)
        return Shot(camera.name, self.number, self.stamp_ns, MessagePicture(content), pose, camera.model, depth)


class ShotReader:
    """The images of the chosen cameras; iterate over it, more than once if need be.

    Poses are interpolated at the images' own stamps. For a pose that comes after its image a second of the recording is
    waited for; never more than 64 MiB of images wait.

    Args:
        recording: open.
        options: what to read.

    Attributes:
        cameras: that are read.
        placing: where poses come from.
        metric: whether poses are in metres.
        counts: of the last iteration: "images", and by reason those that were left out or have no pose.

    Raises:
        InputError: there is no such part or camera.
    """

    def __init__(self, recording: Recording, options: ShotOptions | None = None) -> None:
        self.recording, self.options = recording, options or ShotOptions()
        self.cameras = find_cameras(recording, self.options.cameras, self.options.depth)
        self._interval = recording.interval(self.options.start_s, self.options.end_s)
        self.placing = Placing(recording, self.cameras, self.options.poses, self.options.world)
        self.metric = self.placing.world is not None
        self.counts: Counter[str] = Counter()
        self._by_image = {camera.image: camera for camera in self.cameras}
        self._last: dict[str, int] = {}
        self._seen: Counter[str] = Counter()
        self._waiting: deque[_Waiting] = deque()
        self._depths: dict[str, deque[MessageDepth]] = {}

    def __iter__(self) -> Iterator[Shot]:
        self.counts, self._seen, self._last = Counter(), Counter(), {}
        self._waiting = deque()
        self._depths = {camera.depth: deque(maxlen=32) for camera in self.cameras if camera.depth}
        self.placing.clear()
        names = [*self._by_image, *self._depths, *self.placing.names]
        start, end = self._interval
        # Poses from just before the first image serve to interpolate.
        early = None if start is None else start - _PATIENCE_NS
        late = None if end is None else end + _PATIENCE_NS
        for item in self.recording.items(names, early, late):
            name = item.stream.name
            if name in self._by_image:
                if (start is None or item.received_ns >= start) and (end is None or item.received_ns < end):
                    self._take_image(self._by_image[name], item)
            elif name in self._depths:
                self._take_depth(name, item)
            else:
                self.placing.feed(item)
            yield from self._ready(item.received_ns)
        yield from self._ready(None)

    def _take_image(self, camera: Camera, item: Item) -> None:
        number = self._seen[camera.image]
        self._seen[camera.image] += 1
        if number % self.options.every:
            return
        content = item.content
        self.counts["images"] += 1
        try:
            stamp = content.stamp_ns if isinstance(content, Still) else content.header()[0]
        except MessageError:
            self.counts["damaged headers"] += 1
            return
        if stamp <= 0 and self.recording.timed and isinstance(content, RawMessage):
            self.counts["stamps of zero"] += 1
            stamp = item.received_ns
        last = self._last.get(camera.image)
        if last is not None and stamp == last:
            self.counts["stamps twice"] += 1
            return
        if last is not None and stamp < last:
            if last - stamp < _JUMP_NS:
                self.counts["stamps backwards"] += 1
                return
            self.counts["jumps of the clock"] += 1
        self._last[camera.image] = stamp
        self._waiting.append(_Waiting(camera, number, stamp, item.received_ns, content))

    def _take_depth(self, name: str, item: Item) -> None:
        if isinstance(item.content, RawMessage):
            try:
                self._depths[name].append(MessageDepth(item.content, item.content.header()[0]))
            except MessageError:
                self.counts["damaged headers"] += 1

    def _ready(self, now_ns: int | None) -> Iterator[Shot]:
        """Images of which all is known that will be, oldest first; all of them if ``now_ns`` is None."""
        held = sum(one.bytes for one in self._waiting) if len(self._waiting) > 1 else 0
        while self._waiting:
            one = self._waiting[0]
            late = now_ns is None or now_ns - one.received_ns > _PATIENCE_NS or held > _WAITING_BYTES
            pose, may_come = self.placing.look_up(one.camera.frame_id, one.stamp_ns)
            depth, depth_may_come = self._depth_of(one)
            if not late and ((pose is None and may_come) or depth_may_come):
                return
            if pose is None and self.placing.world is not None:
                self.counts["without a pose"] += 1
            held -= one.bytes
            self._waiting.popleft()
            yield one.shot(pose, depth)

    def _depth_of(self, one: _Waiting) -> tuple[MessageDepth | None, bool]:
        """The nearest depth image, and whether a nearer one may come."""
        if one.camera.depth is None:
            return None, False
        known = self._depths[one.camera.depth]
        nearest = min(known, key=lambda depth: abs(depth.stamp_ns - one.stamp_ns), default=None)
        newest = max((depth.stamp_ns for depth in known), default=-math.inf)
        if nearest is not None and abs(nearest.stamp_ns - one.stamp_ns) > _DEPTH_APART_NS:
            nearest = None
        return nearest, newest < one.stamp_ns
