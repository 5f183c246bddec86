"""The levels of memory use, from everything on the device to one block of one network at a time."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

NETWORKS = ("transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder")
"""Names of the networks, as the pipeline has them."""

STREAMABLE = ("text_encoder", "transformer", "vggt")
"""Networks whose blocks can be brought to the device one after the other."""


@dataclass(frozen=True)
class Level:
    """Where weights lie, and how much is computed at a time. All levels give the same result but for the last bits.

    Attributes:
        name: for messages and figures.
        away: networks that lie in host memory but while they are used.
        streamed: of those, networks whose blocks are brought one by one, the next while one computes.
        branches_together: whether the two branches of guidance are one batch.
        feed_forward_parts: groups of tokens that go through a feed-forward layer one after the other.
        frames_per_chunk: frames that go through VGGT's dense heads at a time.
        words: what it means, for people.
    """

    name: str
    words: str
    away: frozenset[str] = frozenset()
    streamed: frozenset[str] = frozenset()
    branches_together: bool = True
    feed_forward_parts: int = 1
    frames_per_chunk: int = 8

    def keeping(self, names: AbstractSet[str]) -> Level:
        """The same with some networks on the device all the time.

        Args:
            names: of networks that this level has away.
        """
        listed = ", ".join(name.replace("_", " ") for name in NETWORKS if name in names)
        words = f"{self.words}; on the device all the time: {listed}"
        return replace(self, away=self.away - names, streamed=self.streamed - names, words=words)


LEVELS = (
    Level("resident", "all networks stay on the device"),
    Level(
        "prompts",
        "the text encoder comes block by block, only while prompts are embedded",
        away=frozenset({"text_encoder"}),
        streamed=frozenset({"text_encoder"}),
    ),
    Level(
        "components",
        "one network after the other is on the device, the text encoder block by block",
        away=frozenset(NETWORKS),
        streamed=frozenset({"text_encoder"}),
    ),
    Level(
        "sparing",
        "one network after the other, the branches of guidance in turn, feed-forward layers and heads in parts",
        away=frozenset(NETWORKS),
        streamed=frozenset({"text_encoder"}),
        branches_together=False,
        feed_forward_parts=4,
        frames_per_chunk=4,
    ),
    Level(
        "streamed",
        "the same, and the blocks of the transformer and of VGGT one by one",
        away=frozenset(NETWORKS),
        streamed=frozenset(STREAMABLE),
        branches_together=False,
        feed_forward_parts=8,
        frames_per_chunk=2,
    ),
)
"""From the fastest to the smallest; a job that runs out of memory goes on at the next."""
