"""Keyframes of a recording: the images that are worth reconstructing from, without decoding the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.keyframes import KeyframeOptions, KeyframeSelector, Verdict
from gen3r_core.recordings.shots import Shot, ShotReader

RECORDED = KeyframeOptions(min_interval_s=0.1)
"""When an image of a recording becomes a keyframe: there is no hurry as there is on a robot."""


class KeyframeSelection:
    """The keyframes of each camera, in the order of time; iterate over it.

    Where poses in metres are known, they choose, and an image is decoded (small) only to see that it is sharp. Else
    images are compared, small and grey, ``min_interval_s`` apart at the least. A camera that stands still gives no more
    keyframes.

    Args:
        shots: the images.
        options: when an image is chosen; capacity and recent do not matter, as nothing is kept here.

    Attributes:
        counts: "keyframes", images by verdict, and "broken" ones that cannot be decoded, of the last iteration.
        broken: what is wrong with the first of them.
    """

    def __init__(self, shots: ShotReader, options: KeyframeOptions = RECORDED) -> None:
        self.shots = shots
        # What is chosen goes to the caller; the selector compares with the last one only.
        self._options = replace(options, capacity=2, recent=1)
        if not shots.recording.timed:
            self._options = replace(self._options, min_interval_s=0.0, max_interval_s=1e9, sharpness_wait_s=0.0)
        self.counts: Counter[str] = Counter()
        self.broken = ""

    def __iter__(self) -> Iterator[Shot]:
        self.counts, self.broken = Counter(), ""
        selectors: dict[str, KeyframeSelector[Shot]] = {}
        for shot in self.shots:
            selector = selectors.setdefault(shot.camera, KeyframeSelector(self._options))
            pose = shot.T_world_cam if self.shots.metric else None
            try:
                decision = selector.offer(shot.stamp_ns, shot, shot.picture.thumbnail, pose)
            except InputError as error:
                self.counts["broken"] += 1
                self.broken = self.broken or f"image {shot.number} of {shot.camera}: {error}"
                continue
            self.counts[decision.verdict.value] += 1
            # One that is merely due takes the place of the last, which shows the same.
            if decision.keyframe is not None and decision.keyframe.verdict is not Verdict.DUE:
                self.counts["keyframes"] += 1
                yield decision.keyframe.payload
