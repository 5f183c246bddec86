"""A robot with a camera in a procedural world, as a node: for demonstrations, tests, and trying things out.

    ros2 run gen3r gen3r_sim --ros-args -p use_sim_time:=true -p world:=7

Rendering takes about a second a picture on one core. With ``use_sim_time`` simulated time waits for it: the clock
(/clock, from this node) stands still until each picture is there, every run is the same, and slow machines see the same
world as fast ones. Without, time is the machine's, and pictures come as fast as they are rendered, each with the stamp
and pose of when it was asked for, like those of a slow camera.

Frames (REP-105): the world is ``map``; ``odom`` is where the robot started; ``base_link`` on the floor;
``camera_link``; ``camera_optical_frame``. What shall go wrong is told by :mod:`gen3r_ros.simulator_faults`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import rclpy
from geometry_msgs.msg import Twist, Vector3
from nav_msgs.msg import Odometry, Path
from numpy.typing import NDArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.geometry.poses import invert_poses
from gen3r_core.worlds.camera import Picture, TrueCloud, intrinsics_of
from gen3r_core.worlds.render_process import RenderProcess
from gen3r_core.worlds.robot import Robot, first_blocked, start_of, tour
from gen3r_core.worlds.routes import Routes
from gen3r_core.worlds.world import make_world
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.clouds import Points, cloud_message
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import matrix_pose, path_matrices, stamp_message, transform_message
from gen3r_ros.qos import CLOCK, LATCHED, RESULT, SENSOR
from gen3r_ros.running import check_command_line, ros_context, spin_until_signal
from gen3r_ros.simulator_faults import Faults
from gen3r_ros.simulator_parameters import SimulatorParameters, declare
from gen3r_ros.transforms import transform_sender
from gen3r_ros.transport import use_large_message_profile

MAP, ODOM, BASE = "map", "odom", "base_link"
CAMERA, OPTICAL = "camera_link", "camera_optical_frame"
START_NS = 10_000_000_000
"""Simulated time begins here: not at 0, which stands for "no stamp" in many places."""

# REP-103: of the optical frame (x right, y down, z forward) in the camera's own (x forward, y left, z up).
T_CAMERA_OPTICAL = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
_TICK_SECONDS = 0.005
_BEAT_NS = 100_000_000
_CLOUD_SPACING = 0.03
_START_DISTANCE = 0.05
_LONGEST_STEP = 0.2
_SETTLE_SECONDS = 1.0


def camera_mount(height: float) -> NDArray[np.float64]:
    """``T_base_camera`` ``[4, 4]``: the camera looks forward, ``height`` metres over the floor."""
    T = np.eye(4)
    T[2, 3] = height
    return T


class Simulator:
    """Makes a node the simulator; parameters are in :mod:`gen3r_ros.simulator_parameters`.

    Publishes ``image_raw``, ``camera_info``, ``depth/image_raw`` (32FC1, when somebody listens), ``odom``, TF,
    ``/clock`` (with use_sim_time) and ``ground_truth/points`` (latched, rendered when somebody listens). Follows
    ``goal_path``, a path of ``base_link`` in ``map`` or ``odom``.

    Args:
        node: to which all is added; spin it.

    Raises:
        Gen3RError: parameters make no sense, or rendering cannot start.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._parameters: SimulatorParameters = declare(node)
        self._stepped = bool(self._node.get_parameter("use_sim_time").value)
        self._world = make_world(self._parameters.seed, self._parameters.kind)
        way = tour(self._world, self._parameters.tour_seed)
        self._robot = Robot(*start_of(way), speed=self._parameters.speed, turn_rate=self._parameters.turn_rate)
        if self._parameters.tour:
            self._robot.follow(way, closed=True)
        self._touring = self._parameters.tour
        self._T_map_odom = self._robot.T_world_base
        self._T_base_optical = camera_mount(self._parameters.camera_height) @ T_CAMERA_OPTICAL
        size = self._parameters.size
        self._model = CameraModel(intrinsics_of(size, self._parameters.hfov), size)
        self._images = self._node.create_publisher(Image, "image_raw", SENSOR)
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", SENSOR)
        self._depths = self._node.create_publisher(Image, "depth/image_raw", SENSOR)
        self._odometry = self._node.create_publisher(Odometry, "odom", RESULT)
        self._clouds = self._node.create_publisher(PointCloud2, "ground_truth/points", LATCHED)
        self._clock = self._node.create_publisher(ClockMessage, "/clock", CLOCK) if self._stepped else None
        self._frames = transform_sender(node)
        self._faults = Faults(
            node,
            self._images.publish,
            self._infos.publish,
            self._depths.publish,
            self._frames.send,
            self._present,
        )
        self._node.create_subscription(Path, "goal_path", self._take_path, RESULT)
        self._wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._renderer = RenderProcess(self._parameters.camera(), threads=self._parameters.render_threads)
        # Nanoseconds, simulated or real: now, the first picture, and the next step of real time.
        self._now = self._first = self._next_step = 0
        self._pictures = 0
        self._steps = -round(_SETTLE_SECONDS * self._parameters.tf_rate_of_steps)
        self._exposed: int | None = None
        self._cloud_asked = self._cloud_sent = False
        self._waiting = self._parameters.wait_for_subscriber
        self._earliest = self._beat = 0  # by the wall
        self._begin()
        self._send_static()
        self._timer = self._node.create_timer(_TICK_SECONDS, self._tick, clock=self._wall)
        self._node.get_logger().info(
            f"world {self._parameters.world} of split {self._parameters.split} ({self._world.kind}, "
            f"{len(self._world.rooms)} rooms), {size[1]}x{size[0]} pixels at {self._parameters.rate:g} Hz of "
            f"{'simulated time, which waits for pictures' if self._stepped else 'real time, or as it renders'}"
        )

    def close(self) -> None:
        """End the process that renders."""
        self._renderer.close()

    def _tick(self) -> None:
        if self._waiting:
            if self._images.get_subscription_count() == 0:
                self._beat_on()
                return
            self._waiting = False
            self._begin()
        self._take_answers()
        self._faults.release()
        if self._clouds.get_subscription_count() and not self._cloud_asked:
            self._cloud_asked = True
            self._renderer.ask_cloud(self._parameters.camera_height, _CLOUD_SPACING)
        if self._stepped:
            self._go_on_stepped()
        else:
            self._go_on()

    def _begin(self) -> None:
        """The first picture comes a little later: who has just been found gets the transforms before it."""
        settle = round(_SETTLE_SECONDS * 1e9)
        self._now = START_NS - settle if self._stepped else self._node.get_clock().now().nanoseconds
        self._first, self._next_step = self._now + settle, self._now

    # --- simulated time --------------------------------------------------------------------------------

    def _go_on_stepped(self) -> None:
        """Step by step to the time of the next picture, no faster than ``pace``; then wait for it."""
        while self._exposed is None:
            wall = self._wall.now().nanoseconds
            if wall < self._earliest:
                return
            step = 1_000_000_000 / self._parameters.tf_rate_of_steps
            # What rendering took counts as waited; but lost time is not made up for beyond one picture.
            pace = self._parameters.pace if self._steps >= 0 else min(self._parameters.pace, 1.0)
            period = 1e9 / self._parameters.rate / pace if self._steps > 0 else 0
            self._earliest = max(self._earliest, wall - round(period)) + round(step / pace)
            if self._steps > 0:
                self._robot_goes_on(step / 1e9)
            self._now = self._first + round(self._steps * step)
            self._steps += 1
            self._send_moving()
            if self._steps > 0 and (self._steps - 1) % self._parameters.steps_per_picture == 0:
                self._expose()
        self._beat_on()

    def _beat_on(self) -> None:
        """While time stands still: say so again, for those who come late. Not in TF, where it would be an error."""
        wall = self._wall.now().nanoseconds
        if self._clock is not None and wall >= self._beat:
            self._beat = wall + _BEAT_NS
            self._clock.publish(ClockMessage(clock=stamp_message(self._now)))

    # --- the machine's time ----------------------------------------------------------------------------

    def _present(self) -> int:
        """Nanoseconds of simulated or real time."""
        return self._now if self._stepped else self._node.get_clock().now().nanoseconds

    def _go_on(self) -> None:
        now = self._node.get_clock().now().nanoseconds
        if now < self._now:  # the machine's clock was set back
            self._first = self._next_step = self._now = now
            self._pictures = 0
        if now < self._next_step:
            return
        self._next_step = max(self._next_step + round(1e9 / self._parameters.tf_rate), now)
        if now > self._first:
            self._robot_goes_on(min((now - self._now) / 1e9, _LONGEST_STEP))
        self._now = now
        self._send_moving()
        period = 1e9 / self._parameters.rate
        if self._exposed is None and now > self._first + self._pictures * period:
            self._pictures = int((now - self._first) / period) + 1
            self._expose()

    # --- both --------------------------------------------------------------------------------------------

    def _robot_goes_on(self, seconds: float) -> None:
        before = self._robot.busy
        self._robot.step(seconds)
        length = self._parameters.tour_length
        if self._touring and length and self._robot.driven >= length:
            self._robot.stop()
            self._touring = False
        if before and not self._robot.busy:
            self._node.get_logger().info(
                f"arrived at ({self._robot.x:.2f}, {self._robot.y:.2f}) after {self._robot.driven:.2f} m"
            )

    def _expose(self) -> None:
        self._exposed = self._now
        self._renderer.ask_picture(self._robot.T_world_base @ self._T_base_optical)

    def _take_answers(self) -> None:
        while (answer := self._renderer.answer()) is not None:
            if isinstance(answer, TrueCloud):
                self._send_cloud(answer)
            else:
                self._send_picture(answer)

    def _send_picture(self, picture: Picture) -> None:
        header = Header(stamp=stamp_message(self._exposed or 0), frame_id=OPTICAL)
        self._exposed = None
        image, depth = image_message(picture.colors, "rgb8", header), None
        if self._depths.get_subscription_count():
            metres = np.where(picture.depth > 0, picture.depth, np.float32(np.nan))
            depth = image_message(metres, "32FC1", header)
        self._faults.picture(image, camera_info(self._model, header), depth)

    def _send_cloud(self, cloud: TrueCloud) -> None:
        header = Header(stamp=stamp_message(self._now), frame_id=MAP)
        self._clouds.publish(cloud_message(Points(cloud.points, cloud.colors), header))
        self._node.get_logger().info(f"ground truth: {len(cloud.points)} points")

    def _send_static(self) -> None:
        stamp = stamp_message(self._now)
        mount = camera_mount(self._parameters.camera_height)
        self._frames.send_static(
            [
                transform_message(BASE, CAMERA, mount, stamp),
                transform_message(CAMERA, OPTICAL, T_CAMERA_OPTICAL, stamp),
            ]
        )

    def _send_moving(self) -> None:
        stamp = stamp_message(self._now)
        if self._clock is not None:
            self._clock.publish(ClockMessage(clock=stamp))
        T_odom_base = invert_poses(self._T_map_odom) @ self._robot.T_world_base
        self._faults.transforms(
            [transform_message(MAP, ODOM, self._T_map_odom, stamp), transform_message(ODOM, BASE, T_odom_base, stamp)]
        )
        odometry = Odometry(header=Header(stamp=stamp, frame_id=ODOM), child_frame_id=BASE)
        odometry.pose.pose = matrix_pose(T_odom_base)
        odometry.twist.twist = Twist(
            linear=Vector3(x=float(self._robot.velocity)), angular=Vector3(z=float(self._robot.turning))
        )
        self._odometry.publish(odometry)

    def _take_path(self, message: Path) -> None:
        if not self._parameters.follow_goal_path:
            return
        try:
            way, end_yaw = self._checked_way(message)
        except InputError as error:
            self._node.get_logger().warning(f"goal_path is not followed: {error}")
            return
        self._touring = False
        self._robot.follow(way, end_yaw=end_yaw)
        self._node.get_logger().info(f"following a goal path of {len(message.poses)} poses")

    def _checked_way(self, message: Path) -> tuple[NDArray[np.float64], float]:
        """From here to the path's first pose and along it, in the world; and the heading of its last."""
        frame, poses = path_matrices(message)
        if not len(poses):
            raise InputError("it has no pose")
        if frame.lstrip("/") not in (MAP, ODOM):
            raise InputError(f"its frame is {frame!r}; {MAP} and {ODOM} can be used")
        if frame.lstrip("/") == ODOM:
            poses = self._T_map_odom @ poses
        way = poses[:, :2, 3]
        blocked = first_blocked(self._world, way)
        if blocked is not None:
            raise InputError(f"it runs into something near ({blocked[0]:.2f}, {blocked[1]:.2f}) in {MAP}")
        here = np.array([self._robot.x, self._robot.y])
        if np.linalg.norm(way[0] - here) > _START_DISTANCE:
            straight = np.stack([here, way[0]])
            if first_blocked(self._world, straight) is None:
                way = np.concatenate([here[None], way])
            else:
                start, end = (float(here[0]), float(here[1])), (float(way[0, 0]), float(way[0, 1]))
                way = np.concatenate([here[None], Routes(self._world).between(start, end), way])
        return way, float(np.arctan2(poses[-1, 1, 0], poses[-1, 0, 0]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator until it is interrupted.

    Args:
        arguments: of the command line, ROS's among them; None takes those of this process.

    Returns:
        0, or 1 where it cannot start or go on.
    """
    check_command_line(
        "gen3r_sim",
        "A robot with a camera in a procedural world. Parameters: simulator_parameters.py; use: docs/ros.md.",
        arguments,
    )
    use_large_message_profile()
    with ros_context(arguments):
        node = rclpy.create_node("gen3r_sim")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        simulator: Simulator | None = None
        try:
            simulator = Simulator(node)
            spin_until_signal(executor)
        except Gen3RError as error:
            node.get_logger().fatal(str(error))
            return 1
        finally:
            executor.shutdown(timeout_sec=1.0)
            if simulator is not None:
                simulator.close()
            node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
