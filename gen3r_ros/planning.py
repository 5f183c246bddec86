"""From a goal path to what the worker is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from nav_msgs.msg import Path

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.goal_path import GoalCameras, goal_cameras
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.hurry import EXACT, Known, Way, choose, ways
from gen3r_core.serving.requests import Cameras, PredictOptions, PredictRequest
from gen3r_core.serving.status import ModelFacts
from gen3r_ros.camera_image import ImageKeyframe
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.goals import Goal
from gen3r_ros.parameters import MOST_VIEWS, NodeParameters
from gen3r_ros.placement import Placement
from gen3r_ros.transforms import TransformError, Transforms

TASK = "1view"
"""Views follow from the newest image."""


class RefusedError(Gen3RError):
    """A goal that cannot be served.

    Attributes:
        code: as its client gets it.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, eq=False)
class Prepared:
    """A goal that can.

    Attributes:
        request: for the worker.
        window: the keyframe that it begins at.
        T_world_views: ``[F, 4, 4]`` the cameras in the fixed frame.
        scale: metres per model unit that the model is told.
        deadline_s: seconds that are left; None for any.
        profile: how the views are made.
    """

    request: PredictRequest
    window: tuple[ImageKeyframe, ...]
    T_world_views: Array
    scale: float
    deadline_s: float | None
    profile: str = EXACT


@dataclass(frozen=True)
class Times:
    """How long things take, as far as that is known.

    Attributes:
        before_s: seconds that the worker is busy with something else.
        known: of predictions with the options it is asked for.
    """

    before_s: float = 0.0
    known: Known = lambda _options: None


def prepare(
    goal: Goal,
    camera: RobotCameras | CameraInput,
    transforms: Transforms,
    parameters: NodeParameters,
    model: ModelFacts,
    facts: CheckpointFacts,
    placement: Placement | None,
    why_no_scale: str,
    *,
    times: Times | None = None,
) -> Prepared:
    """Turn a goal of PredictViews into a request.

    Args:
        goal: of the action or the topic.
        camera: whose newest keyframe the path begins at; of several the first.
        transforms: of the robot.
        parameters: of the node.
        model: that is loaded.
        facts: of its checkpoint.
        placement: of the newest metric reconstruction; None where there is none.
        why_no_scale: the reason then.
        times: tell how much a goal with a deadline has to be hurried; None where nothing is known.

    Raises:
        RefusedError: it cannot be served, with the code that says why.
    """
    try:
        deadline_s = goal.left()
        if not goal.request.path.poses:
            raise InputError("the goal path is empty; send at least one pose")
        way = in_time(goal, predict_options(goal, parameters, model, facts), deadline_s, parameters, times or Times())
        options = way.options
        keyframe = camera.newest()
        if keyframe is None:
            raise RefusedError(*nothing_from(camera))
        cameras = goal_views(goal.request.path, keyframe, transforms, parameters, options.num_frames or 5)
        if placement is None:
            raise RefusedError(
                ErrorCode.SCALE_UNKNOWN,
                f"the path is in metres, and the model's unit is not known: {why_no_scale}",
            )
        request = predict_request(goal, keyframe, cameras, placement.world_from_model, parameters, options)
    except TransformError as error:
        raise RefusedError(ErrorCode.NO_TRANSFORM, str(error)) from error
    except InputError as error:
        raise RefusedError(ErrorCode.INVALID_REQUEST, str(error)) from error
    scale = placement.world_from_model.scale
    return Prepared(request, (keyframe,), cameras.T_world_cam, scale, deadline_s, way.profile)


def in_time(goal: Goal, options: PredictOptions, left_s: float | None, parameters: NodeParameters, times: Times) -> Way:
    """How to make the views by the goal's deadline, no faster than that needs; what the goal itself asks for stays.

    Args:
        goal: of the action or the topic.
        options: without any hurry.
        left_s: seconds until its deadline; None for any.
        parameters: of the node.
        times: that are known.
    """
    own = goal.request.options
    asked = {
        "num_frames": bool(own.num_frames),
        "steps": bool(own.steps),
        "guided_share": not own.guidance < 0,
    }
    fixed = [name for name, given in asked.items() if given]
    found = ways(options, task=TASK, fastest=parameters.fastest_profile, fixed=fixed)
    return choose(found, None if left_s is None else left_s - times.before_s, times.known)


def nothing_from(camera: RobotCameras | CameraInput) -> tuple[ErrorCode, str]:
    """Code and words where there is no keyframe."""
    if camera.images and not camera.infos:
        return ErrorCode.NO_CAMERA_INFO, f"images come on {camera.topic}, but no camera_info on {camera.info_topic}"
    return ErrorCode.NO_IMAGES, camera.last_problem or f"no image came on {camera.topic} yet"


def goal_views(
    path: Path, keyframe: ImageKeyframe, transforms: Transforms, parameters: NodeParameters, num_frames: int
) -> GoalCameras:
    """The cameras along a goal path, beginning where the newest keyframe was taken.

    Args:
        path: of the base frame, in any frame that TF connects to the fixed one.
        keyframe: where the path begins.
        transforms: of the robot.
        parameters: of the node.
        num_frames: views.

    Returns:
        the cameras in the fixed frame.

    Raises:
        InputError: the path makes no sense.
        TransformError: TF does not connect the frames, or did not when the keyframe was taken.
    """
    frames = {pose.header.frame_id or path.header.frame_id for pose in path.poses} or {path.header.frame_id}
    if len(frames) != 1 or "" in frames:
        raise InputError(f"the poses of a path are in one frame that its header names; this one has {sorted(frames)}")
    if keyframe.T_world_cam is None:
        raise TransformError(keyframe.payload.why_no_pose, may_come=False)
    T_fixed_path = transforms.lookup(parameters.fixed_frame, frames.pop()).T_target_source
    T_base_cam = transforms.lookup(parameters.base_frame, keyframe.payload.frame, keyframe.stamp_ns).T_target_source
    poses = [stamped.pose for stamped in path.poses]
    cameras = goal_cameras(
        np.array([[p.position.x, p.position.y, p.position.z] for p in poses]),
        np.array([[p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w] for p in poses]),
        T_base_cam,
        num_frames,
        T_world_start=invert_poses(T_fixed_path) @ keyframe.T_world_cam,
        heading=parameters.heading,
        horizon_m=parameters.horizon_m or None,
    )
    return replace(cameras, T_world_cam=T_fixed_path @ cameras.T_world_cam)


def predict_request(
    goal: Goal,
    keyframe: ImageKeyframe,
    cameras: GoalCameras,
    world_from_model: Sim3,
    parameters: NodeParameters,
    options: PredictOptions,
) -> PredictRequest:
    """What the worker is asked for.

    Args:
        goal: of PredictViews.
        keyframe: that the path begins at; its image is decoded here.
        cameras: in the fixed frame.
        world_from_model: of the newest reconstruction that is metric.
        parameters: of the node.
        options: of the goal and the node.

    Raises:
        InputError: options out of range, or an image that is damaged.
    """
    poses = cameras.in_model(world_from_model)
    poses[:, :3, 3] *= world_from_model.scale  # metres again, but where float32 is fine enough
    camera = keyframe.payload.pinhole
    K = np.repeat(camera.intrinsics[None], len(cameras), axis=0)
    own = goal.request.options
    return PredictRequest(
        [keyframe.payload.rgb()],
        TASK,
        Cameras(poses, K, camera.size, world_from_model.scale),
        goal.request.prompt,
        own.seed if own.seed >= 0 else parameters.seed,
        options,
        parameters.cloud,
    )


def predict_options(
    goal: Goal, parameters: NodeParameters, model: ModelFacts, facts: CheckpointFacts
) -> PredictOptions:
    """Options of the goal, where it has none of the node, and else of the checkpoint.

    Raises:
        InputError: a number is out of its range.
    """
    own = goal.request.options
    guidance = next((g for g in (own.guidance, parameters.guidance) if not g < 0), facts.guidance)
    frames = own.num_frames or parameters.num_frames or model.num_frames
    if frames < 5 or frames % 4 != 1 or frames > MOST_VIEWS:
        raise InputError(f"a path is predicted in 4k+1 views, from 5 to {MOST_VIEWS}, got num_frames {frames}")
    if not math.isfinite(guidance):
        raise InputError(f"guidance is a finite number, got {guidance}")
    return PredictOptions(
        num_frames=frames,
        size=parameters.size or model.image_size,
        steps=own.steps or parameters.steps or facts.steps,
        guidance=guidance,
        negative_prompt=own.negative_prompt or parameters.negative_prompt,
        scheduler=parameters.scheduler,
        geometry=facts.geometry if parameters.geometry == "auto" else parameters.geometry,
    )
