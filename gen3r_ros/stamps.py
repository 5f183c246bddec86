"""Stamps that can be used, and those that cannot: zero, twice the same, going back, or in the future."""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000_000
RESTART_BACK_NS = SECOND
"""Stamps that are so far back, or farther, are those of a recording or simulation that began again, if they go on."""

RESTART_COUNT = 5
"""So many of them in a row, one after the other; fewer are stragglers or mistakes."""


@dataclass(frozen=True)
class Judgement:
    """Of a stamp.

    Attributes:
        reason: short, for counting; empty where it can be used.
        words: one sentence; the same.
        restart: time was set back, everything before is of another scene; the stamp can be used.
    """

    reason: str = ""
    words: str = ""
    restart: bool = False


FINE = Judgement()


class StampCheck:
    """Of one stream. One thread's own.

    Args:
        what: whose stamps they are, for the words: "images on /image_raw".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._newest: int | None = None
        self._behind: list[int] = []

    def reset(self) -> None:
        """Forget those before."""
        self._newest = None
        self._behind.clear()

    def judge(self, stamp: int, now: int, tolerance: int) -> Judgement:
        """Whether a stamp can be used.

        Args:
            stamp: integer nanoseconds.
            now: by the node's clock; 0 where no time has come on /clock.
            tolerance: nanoseconds that a stamp may be ahead of the clock.
        """
        if stamp <= 0:
            return Judgement("no stamp", f"{self._what} have the stamp 0: the driver sets none")
        if now > 0 and stamp > now + tolerance:
            return Judgement(
                "stamp in the future",
                f"stamps of {self._what} are {(stamp - now) / SECOND:.3f} s ahead of this node's clock",
            )
        newest = self._newest
        if newest is None or stamp > newest:
            self._newest = stamp
            self._behind.clear()
            return FINE
        if stamp == newest or stamp in self._behind[-1:]:
            return Judgement("stamp twice", f"two of {self._what} have the stamp {stamp / SECOND:.3f}")
        if newest - stamp >= RESTART_BACK_NS:
            if self._behind and stamp < self._behind[-1]:
                self._behind.clear()
            self._behind.append(stamp)
        if len(self._behind) >= RESTART_COUNT:
            back = f"stamps of {self._what} went back by {(newest - stamp) / SECOND:.3f} s"
            self._newest = stamp
            self._behind.clear()
            return Judgement(words=back, restart=True)
        return Judgement(
            "stamp went back", f"stamps of {self._what} went back from {newest / SECOND:.3f} to {stamp / SECOND:.3f}"
        )
