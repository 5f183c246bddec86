"""How a job ended, in the numbers that ROS clients get."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """The constants of ``msg/ErrorCode.msg``, which says what each means; numbers never change their meaning."""

    OK = 0

    CANCELED = 1
    SUPERSEDED = 2
    DEADLINE_MISSED = 3

    INVALID_REQUEST = 10

    NOT_ACTIVE = 20
    NO_IMAGES = 21
    NO_CAMERA_INFO = 22
    NO_TRANSFORM = 23
    SCALE_UNKNOWN = 24
    NO_MAP = 25

    OUT_OF_MEMORY = 30
    WORKER_FAILED = 31
    INFERENCE_FAILED = 32
    WRITE_FAILED = 33
