"""What of a recording could not be read, told in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Loss:
    """One thing that is missing or damaged.

    Attributes:
        text: what, in words.
        bytes: of the file that could not be used.
        messages: that are known to be missing; 0 where their number cannot be told.
        seconds: of the recording that are known to be missing; 0 where that cannot be told.
        harmless: nothing is missing because of it.
    """

    text: str
    bytes: int = 0
    messages: int = 0
    seconds: float = 0.0
    harmless: bool = False


@dataclass
class Losses:
    """All of them. Each place is told of once, however often it is read."""

    found: dict[tuple[str, int], Loss] = field(default_factory=dict)

    def add(self, where: str, offset: int, loss: Loss) -> None:
        """Take in a loss.

        Args:
            where: name of the file.
            offset: place in it; the same place again replaces what was said of it.
            loss: what is lost there.
        """
        self.found[where, offset] = loss

    @property
    def bytes(self) -> int:
        """Bytes that could not be used."""
        return sum(loss.bytes for loss in self.found.values())

    @property
    def messages(self) -> int:
        """Messages known to be missing."""
        return sum(loss.messages for loss in self.found.values())

    @property
    def seconds(self) -> float:
        """Seconds known to be missing."""
        return sum(loss.seconds for loss in self.found.values())

    @property
    def anything(self) -> bool:
        """Whether something is missing."""
        return any(not loss.harmless for loss in self.found.values())

    def sentences(self, most: int = 8) -> list[str]:
        """What to tell the user: the first places, and how many more there are."""
        texts = [f"{where}: {loss.text}" for (where, _), loss in self.found.items()]
        more = len(texts) - most
        return texts if more <= 1 else [*texts[:most], f"... and {more} more places"]
