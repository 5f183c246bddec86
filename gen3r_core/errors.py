"""The exceptions this library raises on purpose.

Every message says what was wrong, where, and what to do next. Low-level errors
(``OSError``, ``KeyError`` from a parser, ``RuntimeError`` from torch) are translated
into one of these at the boundary where the cause is still known.
"""

from __future__ import annotations


class Gen3RError(Exception):
    """Base of all errors raised on purpose by :mod:`gen3r_core`."""


class InputError(Gen3RError):
    """Images, videos, cameras, prompts or options that cannot be used."""


class CheckpointError(Gen3RError):
    """A checkpoint folder or weight file that cannot be read or does not fit the model."""


class OutputError(Gen3RError):
    """Results that cannot be written."""


class DeviceError(Gen3RError):
    """A device or attention kernel that is not available, or that ran out of memory."""


class OutOfMemoryError(DeviceError):
    """A device, or the host, that ran out of memory: less work at a time may fit."""


class CancelledError(Gen3RError):
    """A job stopped because its progress callback asked for it."""
