"""What is wrong with a message: an error with a short reason that can be counted."""

from __future__ import annotations

from typing import Literal, get_args

from gen3r_core.errors import InputError

Reason = Literal["size", "step", "encoding", "compression", "intrinsics", "pose", "cloud"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Every one that a conversion gives."""


class MessageError(InputError):
    """A message that cannot be used.

    Attributes:
        reason: one of :data:`REASONS`, for counters and diagnostics.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
