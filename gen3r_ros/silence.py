"""Why nothing is published, or not what it could be, in one sentence that says what to do."""

from __future__ import annotations

import time

from rclpy.node import Node

from gen3r_core.serving.status import WorkerState
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.scene_loop import SceneLoop

SILENCE_S = 5.0
"""Without an image that can be used for so long, something is wrong."""

OLD_STAMPS_S = 10.0
"""Stamps that are so far from the clock are of another one."""

_WORKING = (WorkerState.READY, WorkerState.BUSY)
_DEFAULT_SEGMENT = 512_000
"""Bytes of shared memory that Fast DDS has by default."""


def why_silent(state: str, loop: SceneLoop | None, cameras: RobotCameras | None, failure: str) -> str:
    """Why nothing is published; empty where something is.

    Args:
        state: of the life cycle.
        loop: None where the node is not configured.
        cameras: None where it is not active.
        failure: why the last transition failed.
    """
    if loop is None or state != "active" or cameras is None:
        return failure or f"the node is {state}; results come when it is active"
    status = loop.worker.status
    if status.state not in _WORKING:
        return f"the model is not ready ({status.state}): {status.words or status.last_failure}"
    troubles = [no_images(camera) for camera in cameras.inputs]
    if all(troubles):
        return "; ".join(troubles)
    if loop.scene.revision == 0:
        taken = loop.tally.counts["keyframes"]
        return loop.tally.last_failure or f"{taken} keyframes were taken, no reconstruction is done yet"
    return ""


def input_trouble(camera: CameraInput) -> str:
    """What is wrong with what comes from a camera; empty where nothing is."""
    return no_images(camera) or _time_trouble(camera) or _no_depth(camera) or camera.why_no_pose


def no_images(camera: CameraInput) -> str:
    """Why no image of a camera can be used; empty where some can."""
    now = time.monotonic()
    since = None if camera.last_image is None else now - camera.last_image
    if since is None or since > SILENCE_S:
        return _nothing_comes(camera, since)
    if not camera.infos:
        why = camera.ends.trouble(camera.info_topic)
        return f"images come on {camera.topic}, but no camera_info on {camera.info_topic}{f': {why}' if why else ''}"
    unused = None if camera.last_used is None else now - camera.last_used
    if camera.dropped and (unused is None or unused > SILENCE_S):
        words = "no image could be used" + ("" if unused is None else f" for {unused:.0f} s")
        return f"{words}: {camera.last_problem}{_clocks(camera)}"
    return ""


def _nothing_comes(camera: CameraInput, since: float | None) -> str:
    how_long = "came yet" if since is None else f"for {since:.0f} s"
    begin = f"no image {how_long} on {camera.topic}"
    if not camera.publishers:
        return f"{begin}: nobody publishes it; is the name right, the camera on?"
    trouble = camera.ends.trouble(camera.topic)
    if trouble:
        return f"{begin}: {trouble}"
    if since is not None:
        return f"{begin}, though somebody publishes it: the camera has stopped, or the network is gone"
    info = camera.last_info
    size = 0 if info is None or camera.settings.image_transport == "compressed" else 3 * info.height * info.width
    about = f" (about {size / 1e6:.1f} MB each, by camera_info)" if size > _DEFAULT_SEGMENT else ""
    return (
        f"{begin}, though somebody publishes it and matched: are the messages{about} larger than the transport takes? "
        f"Whoever publishes needs the profile of FASTDDS_DEFAULT_PROFILES_FILE too (docs/ros.md); or the camera is off"
    )


def _time_trouble(camera: CameraInput) -> str:
    node = camera.node
    if sim_time(node) and not node.get_clock().now().nanoseconds:
        return "use_sim_time is true, and no time comes on /clock: start what publishes it, or set use_sim_time false"
    if camera.why_no_pose and camera.behind_s is not None and abs(camera.behind_s) > OLD_STAMPS_S:
        return f"{camera.why_no_pose}{_clocks(camera)}"
    return ""


def _no_depth(camera: CameraInput) -> str:
    depth = camera.depth
    if depth is None or (depth.last is not None and time.monotonic() - depth.last < SILENCE_S):
        return ""
    nobody = "" if camera.node.count_publishers(depth.topic) else "nobody publishes it"
    why = camera.ends.trouble(depth.topic) or nobody
    return f"no depth comes on {depth.topic}, and images wait for it in vain{f': {why}' if why else ''}"


def _clocks(camera: CameraInput) -> str:
    """What to think of stamps that are far from the clock; empty where they are near."""
    behind = camera.behind_s
    if behind is None or -camera.parameters.future_tolerance_s <= behind < OLD_STAMPS_S:
        return ""
    how = f"{behind:.1f} s behind" if behind > 0 else f"{-behind:.1f} s ahead of"
    if sim_time(camera.node):
        hint = "use_sim_time is true here, and whoever stamps them goes by another clock than /clock"
    elif behind > 0:
        hint = "use_sim_time is false here; for a recording or a simulation it has to be true"
    else:
        hint = "use_sim_time is false here, and the machines' clocks differ: synchronise them (chrony, PTP)"
    return f"; stamps and clock disagree, those of {camera.topic} are {how} this node's: {hint}"


def sim_time(node: Node) -> bool:
    """Whether time is that of /clock."""
    return node.has_parameter("use_sim_time") and bool(node.get_parameter("use_sim_time").value)
