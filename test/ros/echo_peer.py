"""The other side of the interface tests: sends back what it gets, and serves the actions and the service.

Arguments: the types to send back, as ``package/msg/Name``. What comes on ``in/Name`` goes out on ``out/Name``.
"""

from __future__ import annotations

import importlib
import sys
import time

import rclpy
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import ErrorCode, Reconstruction
from gen3r.srv import SaveMap
from rclpy.action.server import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node

from gen3r_ros.qos import LATCHED, RESULT
from gen3r_ros.transport import use_large_message_profile

STEPS = 50
STEP_SECONDS = 0.02


class EchoPeer(Node):
    def __init__(self, types: list[str]) -> None:
        super().__init__("echo_peer")
        for name in types:
            package, _, kind = name.split("/")
            self.echo(getattr(importlib.import_module(f"{package}.msg"), kind))
        group = ReentrantCallbackGroup()
        for kind, name in ((PredictViews, "predict_views"), (Reconstruct, "reconstruct")):
            ActionServer(
                self,
                kind,
                name,
                lambda goal, kind=kind: self.run(goal, kind),
                cancel_callback=lambda _: CancelResponse.ACCEPT,
                callback_group=group,
            )
        self.create_service(SaveMap, "save_map", self.save)
        self.latched = self.create_publisher(Reconstruction, "latched", LATCHED)
        self.latched.publish(Reconstruction(scene_id="first"))
        self.latched.publish(Reconstruction(scene_id="last"))

    def echo(self, kind: type) -> None:
        publisher = self.create_publisher(kind, f"out/{kind.__name__}", RESULT)

        def send_back(message: object) -> None:
            while publisher.get_subscription_count() == 0:  # it would be lost
                time.sleep(0.01)
            publisher.publish(message)

        self.create_subscription(kind, f"in/{kind.__name__}", send_back, RESULT)

    def run(self, goal, kind):
        start = time.monotonic()
        for step in range(STEPS):
            if goal.is_cancel_requested:
                goal.canceled()
                return kind.Result(
                    code=ErrorCode.CANCELED, message=f"canceled at step {step}", seconds=time.monotonic() - start
                )
            left = (STEPS - step) * STEP_SECONDS if step else float("nan")
            goal.publish_feedback(kind.Feedback(stage="denoise", step=step, total=STEPS, seconds_left=left))
            time.sleep(STEP_SECONDS)
        goal.succeed()
        result = kind.Result(code=ErrorCode.OK, seconds=time.monotonic() - start)
        if kind is PredictViews:
            result.views = len(goal.request.path.poses)
            result.scene_id = f"{goal.request.prompt}, seed {goal.request.options.seed}"
        else:
            result.reconstruction.scene_id = f"{goal.request.max_keyframes} keyframes"
        return result

    def save(self, request, response):
        response.code = ErrorCode.OK if request.path else ErrorCode.NO_MAP
        response.message = "" if request.path else "nothing to save yet"
        response.path = request.path
        response.points = 2**40 + int(request.include_generated)
        return response


def main() -> None:
    use_large_message_profile()
    rclpy.init()
    node = EchoPeer(sys.argv[1:])
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    print("ready")
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
