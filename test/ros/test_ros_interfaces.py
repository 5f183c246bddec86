"""Our interfaces over DDS, between processes: messages, actions with feedback and cancel, the service."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from action_msgs.msg import GoalStatus
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import ErrorCode, GenerationOptions, Keyframe, NovelView, Reconstruction
from gen3r.srv import SaveMap
from geometry_msgs.msg import PoseStamped
from rclpy.action.client import ActionClient
from ros_messages import random_message
from tf2_msgs.msg import TFMessage

from gen3r_ros.qos import LATCHED, RESULT

MESSAGES = (NovelView, Reconstruction, Keyframe, GenerationOptions, ErrorCode, TFMessage)


def test_every_message_comes_back_as_it_went(start, client):
    start("echo_peer.py", *(f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}" for kind in MESSAGES))
    rng = np.random.default_rng(4)
    publishers, came = {}, {kind: [] for kind in MESSAGES}
    for kind in MESSAGES:
        publishers[kind] = client.node.create_publisher(kind, f"in/{kind.__name__}", RESULT)
        client.node.create_subscription(kind, f"out/{kind.__name__}", came[kind].append, RESULT)
    client.until(lambda: all(publisher.get_subscription_count() for publisher in publishers.values()))
    sent = {kind: [random_message(kind, rng) for _ in range(5)] for kind in MESSAGES}
    for kind in MESSAGES:
        for message in sent[kind]:
            publishers[kind].publish(message)
    client.until(lambda: all(len(came[kind]) == 5 for kind in MESSAGES))
    assert came == sent


def test_what_is_unknown_stays_unknown(start, client):
    start("echo_peer.py", "gen3r/msg/Reconstruction")
    came = []
    publisher = client.node.create_publisher(Reconstruction, "in/Reconstruction", RESULT)
    client.node.create_subscription(Reconstruction, "out/Reconstruction", came.append, RESULT)
    client.until(publisher.get_subscription_count)
    message = Reconstruction(metric=False, not_metric_reason="the camera did not move")
    message.metres_per_unit = message.residual_m = math.nan
    publisher.publish(message)
    client.until(lambda: came)
    assert not came[0].metric
    assert came[0].not_metric_reason == "the camera did not move"
    assert math.isnan(came[0].metres_per_unit)
    assert math.isnan(came[0].residual_m)


def test_who_subscribes_later_gets_the_last_latched_message(start, client):
    start("echo_peer.py").wait_for("ready")
    came = []
    client.node.create_subscription(Reconstruction, "latched", came.append, LATCHED)
    client.until(lambda: came)
    assert [message.scene_id for message in came] == ["last"]


def goal_of(client, kind, name, goal):
    """Sends a goal; gives its handle, the list that its feedback goes to, and the client."""
    actions = ActionClient(client.node, kind, name)
    client.until(actions.server_is_ready)
    feedback = []
    handle = client.result(actions.send_goal_async(goal, feedback_callback=lambda told: feedback.append(told.feedback)))
    assert handle.accepted
    return handle, feedback, actions


def path_goal(poses):
    goal = PredictViews.Goal(prompt="a corridor", deadline_s=12.5)
    goal.path.header.frame_id = "map"
    goal.path.poses = [PoseStamped() for _ in range(poses)]
    goal.options.seed = 7
    return goal


def test_a_goal_along_a_path_reports_its_steps_and_ends_well(start, client):
    start("echo_peer.py")
    handle, feedback, actions = goal_of(client, PredictViews, "predict_views", path_goal(9))
    came = client.result(handle.get_result_async())
    assert came.status == GoalStatus.STATUS_SUCCEEDED
    assert (came.result.code, came.result.message) == (ErrorCode.OK, "")
    assert (came.result.views, came.result.scene_id) == (9, "a corridor, seed 7")
    assert came.result.seconds >= 1.0
    # Feedback is on a topic: the first ones may go by before it is matched.
    steps = [told.step for told in feedback]
    assert steps == sorted(set(steps))
    assert len(steps) > 25
    assert all((told.stage, told.total) == ("denoise", 50) for told in feedback)
    assert all(math.isnan(told.seconds_left) == (told.step == 0) for told in feedback)
    actions.destroy()


@pytest.mark.parametrize("kind", [PredictViews, Reconstruct])
def test_a_goal_is_canceled_while_it_runs(start, client, kind):
    start("echo_peer.py")
    name = "predict_views" if kind is PredictViews else "reconstruct"
    handle, feedback, actions = goal_of(client, kind, name, kind.Goal())
    client.until(lambda: len(feedback) >= 3)
    answer = client.result(handle.cancel_goal_async())
    assert len(answer.goals_canceling) == 1
    came = client.result(handle.get_result_async())
    assert came.status == GoalStatus.STATUS_CANCELED
    assert came.result.code == ErrorCode.CANCELED
    assert came.result.message.startswith("canceled at step ")
    assert came.result.seconds < 1.0
    actions.destroy()


def test_a_reconstruction_is_asked_for(start, client):
    start("echo_peer.py")
    handle, _, actions = goal_of(client, Reconstruct, "reconstruct", Reconstruct.Goal(max_keyframes=12))
    came = client.result(handle.get_result_async())
    assert came.status == GoalStatus.STATUS_SUCCEEDED
    assert came.result.reconstruction.scene_id == "12 keyframes"
    actions.destroy()


def test_the_map_is_saved_by_a_service(start, client):
    start("echo_peer.py")
    service = client.node.create_client(SaveMap, "save_map")
    saved = client.answer(service, SaveMap.Request(path="/maps/a.ply", include_generated=True))
    assert (saved.code, saved.path, saved.points) == (ErrorCode.OK, "/maps/a.ply", 2**40 + 1)
    refused = client.answer(service, SaveMap.Request())
    assert (refused.code, refused.message) == (ErrorCode.NO_MAP, "nothing to save yet")


def test_defaults_mean_as_the_parameters_say():
    options = PredictViews.Goal().options
    assert (options.num_frames, options.steps, options.guidance, options.seed) == (0, 0, -1.0, -1)
    assert (PredictViews.Goal().deadline_s, Reconstruct.Goal().new_scene) == (0.0, False)


def test_error_codes_differ():
    codes = {name: value for name, value in vars(type(ErrorCode)).items() if name.startswith("_Metaclass")}
    values = next(value for value in codes.values() if isinstance(value, dict))
    assert values["OK"] == 0
    assert len(values) == len(set(values.values())) == 15


def test_tf_is_that_of_ros_distributions_on_the_wire(client):
    """A distribution's type has this hash (REP-2011); Fast DDS would not match another."""
    subscription = client.node.create_subscription(TFMessage, "tf", print, RESULT)
    info = client.node.get_subscriptions_info_by_topic("/tf")
    assert [str(end.topic_type_hash) for end in info] == [
        "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
    ]
    client.node.destroy_subscription(subscription)
