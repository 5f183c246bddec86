"""Ten thousand random messages into each input: nothing is raised, and what was not used is counted."""

import array

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_messages import SECOND, Frames, parameters_of
from ros_messages import random_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gen3r_ros.camera_input import CameraInput
from gen3r_ros.conversions.encodings import ENCODINGS
from gen3r_ros.conversions.poses import stamp_message

COUNT = 10_000
POOL = 400
"""Random messages are slow to make; their parts are put together anew each time."""

PLAUSIBLE = {
    "height": [0, 1, 2, 3, 90],
    "width": [0, 1, 2, 4, 120],
    "step": [0, 1, 4, 120, 360, 480],
    "encoding": [*ENCODINGS, "odd", ""],
    "distortion_model": ["", "plumb_bob", "rational_polynomial", "equidistant", "odd"],
    "format": ["jpeg", "32FC1; compressedDepth png", "16UC1; compressedDepth png", ""],
    "k": [
        np.zeros(9),
        np.full(9, np.nan),
        np.array([100.0, 0, 60, 0, 100, 45, 0, 0, 1]),
        np.diag([1e30, 1e30, 1]).ravel(),
    ],
    "d": [[], [0.1] * 4, [-5.0] * 5, [0.1] * 8, [np.inf] * 5],
    "data": [b"", b"\x89PNG" + bytes(50), b"\xff\xd8\xff" + bytes(50), bytes(90 * 480), bytes(12) + b"\x89PNG"],
}


def messages(kind, seed):
    """Random ones, with fields that now and then have values that would make sense."""
    rng = np.random.default_rng(seed)
    pool = [random_message(kind, rng) for _ in range(POOL)]
    fields = [name for name in kind.get_fields_and_field_types() if name in PLAUSIBLE]
    for number in range(COUNT):
        message = pool[number % POOL]
        for name in fields:
            if rng.random() < 0.5:
                choices = PLAUSIBLE[name]
                value = choices[rng.integers(len(choices))]
                setattr(message, name, array.array("B", value) if name == "data" else value)
        if rng.random() < 0.9:
            message.header.stamp = stamp_message(SECOND + number * SECOND // 10)
            message.header.frame_id = "cam"
        yield message


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "kind"), [("raw", Image), ("compressed", CompressedImage)])
def test_random_images_infos_and_depth_raise_nothing(client, transport, kind):
    parameters = parameters_of(client.node, image_transport=transport, depth_transport=transport, input_wait_s=0.0)
    camera = CameraInput(client.node, Frames(), parameters, lambda _taken: None)
    three = zip(messages(kind, 0), messages(CameraInfo, 1), messages(kind, 2), strict=True)
    for image, info, depth in three:
        camera._take_info(info)
        camera.depth.take(depth)
        camera._take_image(image)
    assert (camera.images, camera.infos, camera.depth.images) == (COUNT, COUNT, COUNT)
    client.until(lambda: camera.queues == (0, 0))
    print(camera.dropped)
    assert camera.dropped["internal error"] == 0
    assert {"no stamp", "size", "step"} <= set(camera.dropped) or transport == "compressed"
    assert camera.dropped["compression"] or transport == "raw"
    used = sum(camera.counts[name] for name in camera.counts)
    images = sum(count for reason, count in camera.dropped.items() if not reason.startswith("depth"))
    assert images <= COUNT
    assert images + used >= COUNT
    for keyframe in camera.window(50):
        keyframe.payload.pinhole  # noqa: B018 - it was looked at before, and can be had
    camera.close()
