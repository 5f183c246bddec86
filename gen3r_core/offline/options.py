"""What an offline reconstruction is told, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from gen3r_core.errors import InputError
from gen3r_core.mapping.windows import WindowOptions
from gen3r_core.reconstruction.keyframes import KeyframeOptions
from gen3r_core.recordings.shots import ShotOptions

__all__ = ["OfflineOptions", "Stretch", "keyframe_options"]


@dataclass(frozen=True)
class Stretch:
    """Where Gen3R predicts views.

    Attributes:
        start_s: seconds from the beginning of the recording; the keyframe nearest to it is the first image.
        end_s: the same of the last image; None to go on beyond the first.
        ahead: how far to go on, metres (units of the map where it is not metric), along the first image's view.

    Raises:
        InputError: numbers make no sense.
    """

    start_s: float
    end_s: float | None = None
    ahead: float = 0.0

    def __post_init__(self) -> None:
        sound = math.isfinite(self.start_s) and self.start_s >= 0 and math.isfinite(self.ahead) and self.ahead >= 0
        between = self.end_s is not None and self.end_s > self.start_s
        if not sound or not (between or (self.end_s is None and self.ahead > 0)):
            raise InputError(
                f"views are generated from a second of the recording to a later one, or some way beyond it, got {self}"
            )

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """``12.5:18`` between two seconds, ``12.5:+1.5`` that far beyond the first.

        Raises:
            InputError: for anything else.
        """
        first, colon, last = text.partition(":")
        try:
            if not colon:
                raise ValueError
            return cls(float(first), None, float(last[1:])) if last[:1] == "+" else cls(float(first), float(last))
        except ValueError as error:
            raise InputError(
                f"{text!r} is no stretch to generate: give SECOND:SECOND, such as 12.5:18, or SECOND:+DISTANCE"
            ) from error


@dataclass(frozen=True)
class OfflineOptions:
    """How a recording becomes a map.

    Attributes:
        shots: what is read of the recording.
        spacing_m: metres between keyframes where poses are known.
        turn_deg: degrees between them.
        change: how much the picture changes between them where poses are not known; see
            :func:`~gen3r_core.reconstruction.thumbnails.image_change`.
        window: frames of windows, and how many they share.
        longest: pixels of the longer side of the images that the model sees; None for the model's own.
        matches: take cameras from matches between images where no poses in metres are known, and close loops by them.
        anchor: fit depth to known poses.
        graph: close loops and solve the pose graph; False joins windows one behind the other, for comparison.
        confirm: leave points out that other views see at another depth.
        voxel: edge of the cloud's voxels, metres (units of the map where it is not metric); None chooses.
        max_points: of the cloud.
        mesh: also make a mesh.
        depth: keep depth maps.
        stretches: where views are generated.
        prompt: what is generated, in words.
        seed: of what is generated.
        steps: of denoising; None for the model's.

    Raises:
        InputError: numbers make no sense.
    """

    shots: ShotOptions = field(default_factory=ShotOptions)
    spacing_m: float = 0.15
    turn_deg: float = 10.0
    change: float = 0.03
    window: WindowOptions = field(default_factory=lambda: WindowOptions(17, 6))
    longest: int | None = None
    matches: bool = True
    anchor: bool = True
    graph: bool = True
    confirm: bool = True
    voxel: float | None = None
    max_points: int = 5_000_000
    mesh: bool = False
    depth: bool = False
    stretches: tuple[Stretch, ...] = ()
    prompt: str = ""
    seed: int = 42
    steps: int | None = None

    def __post_init__(self) -> None:
        keyframe_options(self)
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise InputError(f"the voxel size must be positive, got {self.voxel}")
        if self.max_points < 1:
            raise InputError(f"a cloud needs room for at least 1 point, got {self.max_points}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"views are generated in 1 step or more, got {self.steps}")
        if self.longest is not None and not 28 <= self.longest <= 4096:
            raise InputError(f"the longer side of images is 28 to 4096 pixels, got {self.longest}")

    def facts(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def keyframe_options(options: OfflineOptions) -> KeyframeOptions:
    """When an image becomes a keyframe; there is no hurry as there is on a robot."""
    return KeyframeOptions(
        translation_m=options.spacing_m, rotation_deg=options.turn_deg, change=options.change, min_interval_s=0.08
    )
