"""The node and a camera in processes of their own, and a client that asks the node for things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import Reconstruction
from geometry_msgs.msg import PoseStamped
from managed_node import Manager, parameter_arguments
from nav_msgs.msg import Path as PathMessage
from rclpy.action import ActionClient
from ros_graph import GraphProcess

from gen3r_ros.qos import RESULT

SCRIPTS = Path(__file__).resolve().parents[1] / "ros"

ENDLESS = 1000
"""Steps of a goal that shall not end by itself."""


class Processes:
    """The node and a camera.

    Args:
        graph: variables of the environment.
        folder: for what they write, and for maps.
        camera: arguments of the scripted camera.
        parameters: of the node.
    """

    def __init__(self, graph, folder, camera=("10",), **parameters):
        self._graph, self._folder, self._started = graph, folder, 0
        self._parameters = parameters
        self.camera = self.start_camera(*camera)
        self.node = self.start_node()

    def start_camera(self, *words):
        return self._start("camera_source.py", *words)

    def start_node(self, **parameters):
        words = parameter_arguments(map_folder=self._folder, **{**self._parameters, **parameters})
        return self._start("gen3r_process.py", *words)

    def stop(self):
        """Exit codes of the present node and camera."""
        ends = [self.node.stop(), self.camera.stop()]
        print(self.node.output.read_text())
        return ends

    def _start(self, script, *words):
        self._started += 1
        output = self._folder / f"{self._started}-{script}.txt"
        return GraphProcess(SCRIPTS / script, *words, environment=self._graph, output=output)


class Robot:
    """A client of the node."""

    def __init__(self, client, processes):
        self.client, self.node, self.processes = client, client.node, processes
        self.manager = Manager(client)
        self.got = {}
        self.subscriptions = []
        self.feedback = []
        self.predict = ActionClient(self.node, PredictViews, "predict_views")
        self.reconstruct = ActionClient(self.node, Reconstruct, "reconstruct")

    def close(self):
        self.predict.destroy()
        self.reconstruct.destroy()
        for subscription in self.subscriptions:
            self.node.destroy_subscription(subscription)

    def activate(self):
        """Whatever state it is in."""
        if self.manager.state == "unconfigured":
            assert self.manager.set("checkpoint", "random:tiny") == (True, "")
            assert self.manager.do("configure")
        if self.manager.state == "inactive":
            assert self.manager.do("activate")
        assert self.manager.state == "active"

    def see(self):
        """Wait until something is reconstructed: goals find images."""
        seen = self.listen(Reconstruction, "reconstruction")
        self.client.until(lambda: seen, 30)

    def listen(self, kind, topic, qos=RESULT):
        self.got[topic] = []
        self.subscriptions.append(self.node.create_subscription(kind, topic, self.got[topic].append, qos))
        return self.got[topic]

    def goal(self, length=0.1, **values):
        """Straight on from where the robot is, in odom."""
        path = PathMessage()
        path.header.frame_id = "odom"
        for x in np.linspace(0, length, 4):
            pose = PoseStamped()
            pose.pose.position.x, pose.pose.position.y, pose.pose.orientation.w = 1 + float(x), 2.0, 1.0
            path.poses.append(pose)
        goal = PredictViews.Goal(path=path, prompt="a room", **{k: v for k, v in values.items() if k == "deadline_s"})
        for name, value in values.items():
            if name != "deadline_s":
                setattr(goal.options, name, value)
        return goal

    def send(self, goal):
        """The handle of an accepted goal; its feedback goes to ``feedback``."""
        action = self.predict if isinstance(goal, PredictViews.Goal) else self.reconstruct
        self.client.until(action.server_is_ready)
        sent = action.send_goal_async(goal, feedback_callback=lambda m: self.feedback.append(m.feedback))
        handle = self.client.result(sent)
        assert handle.accepted
        return handle

    def end(self, handle, timeout=30.0):
        """Status and result of a goal."""
        answer = self.client.result(handle.get_result_async(), timeout)
        return answer.status, answer.result

    def denoising(self):
        self.client.until(lambda: any(f.stage == "denoise" and f.step > 0 for f in self.feedback))

    def result(self, goal, timeout=30.0):
        return self.end(self.send(goal), timeout)

    def diagnosis(self, part, condition, timeout=20.0):
        """The first status of a part that meets a condition; its values as a dictionary too."""
        found = []

        def take(message):
            found.extend(one for one in message.status if one.name.endswith(f": {part}") and condition(one))

        subscription = self.node.create_subscription(DiagnosticArray, "/diagnostics", take, 10)
        self.client.until(lambda: found, timeout)
        self.node.destroy_subscription(subscription)
        return found[0], {value.key: value.value for value in found[0].values}
