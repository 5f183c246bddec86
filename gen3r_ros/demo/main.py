"""``gen3r_demo``: from camera to predicted view, with simulator and node as processes of their own, and the truth.

The robot drives a part of its tour while the node reconstructs. Then it asks for the views along a path round the
furniture, drives that path as well, and the node's map is saved. All of it is compared with the world it is in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from gen3r_core.errors import Gen3RError
from gen3r_core.io.atomic import output_error
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import World, make_world
from gen3r_ros.demo.options import DemoOptions, parse
from gen3r_ros.demo.processes import DemoError, Processes, graph_variables, own_domain
from gen3r_ros.demo.route import Route, continued, plan_route, with_headings
from gen3r_ros.demo.terminal import Terminal

if TYPE_CHECKING:
    from gen3r_core.worlds.camera import Picture
    from gen3r_ros.demo.client import DemoClient
    from gen3r_ros.demo.recording import Recording

VIEWS, SIDE = 17, 224
"""Of the prediction: how many views, and the side of each in pixels."""

PICTURES_PER_SECOND, SPEED, TURN_RATE, PACE = 1.5, 0.3, 0.35, 1.0
"""Of the simulator: every picture is a keyframe, and pictures come no faster than they can be reconstructed from."""

_START_S, _MODEL_S, _DRIVE_S, _ACTION_S = 60.0, 180.0, 300.0, 300.0
_REPORT_S = 35.0
"""For the last reconstruction, and figures, pictures and video."""


@dataclass(frozen=True, eq=False)
class Ran:
    """A run of the graph.

    Attributes:
        recording: what came.
        truth: of the views, from the cameras that were asked for.
        known_until: stamp of the keyframe that the prediction began at.
        world: that it was in.
        map_file: the node's map.
        map_points: in it.
    """

    recording: Recording
    truth: list[Picture]
    known_until: int
    world: World
    map_file: Path
    map_points: int


def simulator_arguments(options: DemoOptions) -> list[str]:
    """Of the simulator's command line."""
    parameters: dict[str, object] = {
        "use_sim_time": True,
        "world": options.world,
        "tour_seed": options.tour_seed,
        "tour_length": options.drive_m,
        "image_width": options.size[1],
        "image_height": options.size[0],
        "samples": options.samples,
        "rate": PICTURES_PER_SECOND,
        "tf_rate": 10 * PICTURES_PER_SECOND,
        "speed": SPEED,
        "turn_rate": TURN_RATE,
        "pace": PACE,
        "wait_for_subscriber": True,
    }
    if options.cache_dir is not None:
        parameters["cache_folder"] = str(options.cache_dir.absolute())
    return [*_ros_arguments(parameters), "-r", "goal_path:=drive"]


def node_arguments(options: DemoOptions) -> list[str]:
    """Of the node's command line."""
    parameters: dict[str, object] = {
        "use_sim_time": True,
        "fixed_frame": "map",
        "keyframe_translation_m": 0.15,
        "keyframe_rotation_deg": 8.0,
        "keyframe_min_interval_s": 0.1,
        "keyframe_max_interval_s": 3600.0,
        "keyframe_capacity": 100,
        "window": 8,
        "min_window": 4,
        "map_voxel_m": 0.02,
        "tf_history_s": 600.0,
        "niceness": 0,
        "device": "cpu",
    }
    if options.checkpoint:
        checkpoint = options.checkpoint
        parameters["checkpoint"] = checkpoint if checkpoint.startswith("random:") else str(Path(checkpoint).absolute())
    return _ros_arguments(parameters)


def _ros_arguments(parameters: dict[str, object]) -> list[str]:
    words = ["--ros-args"]
    for name, value in parameters.items():
        words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    return words


def run_graph(options: DemoOptions, terminal: Terminal) -> Ran:
    """Start simulator and node, let them work, and end them.

    Args:
        options: how.
        terminal: told of every step.

    Raises:
        DemoError: a process died, or something took too long; says what, and shows the end of the log.
        Gen3RError: something else went wrong.
    """
    from gen3r_ros.transport import use_large_message_profile

    logs = options.output_dir / "logs"
    try:
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
    except OSError as error:
        raise output_error(logs, error) from error
    terminal.step(f"planning a way through world {options.world}")
    world = make_world(world_seed("test", options.world))
    route = plan_route(world, options.tour_seed, options.drive_m, options.path_m, options.after_m)
    room = max(world.rooms, key=lambda one: one.area)
    x0, y0, x1, y1 = room.inside
    terminal.end(f"a {world.kind} of {x1 - x0:.1f} m x {y1 - y0:.1f} m, {len(world.objects)} things in it")
    with own_domain() as domain:
        os.environ.update(graph_variables(domain, logs))
        use_large_message_profile()
        with Processes(logs) as processes:
            terminal.step("starting simulator and node")
            processes.start("node", "gen3r_ros.node", node_arguments(options))
            processes.start("simulator", "gen3r_ros.simulator", simulator_arguments(options))

            def watch() -> None:
                processes.check()
                if terminal.seconds > options.timeout_s:
                    raise DemoError(
                        f"the demonstration did not end within {options.timeout_s:g} s (--timeout); logs are in {logs}"
                    )

            from gen3r_ros.demo.client import DemoClient

            client = DemoClient(watch, terminal.more)
            try:
                ran = _work(client, world, route, options, terminal)
                processes.check()
            except DemoError as error:
                # A process that dies takes a moment to be seen: its log says more than what waited for it.
                processes.check()
                raise DemoError(f"{error}\nThe end of {processes.log('node')}:\n{processes.tail('node')}") from error
            finally:
                client.close()
            terminal.step("ending simulator and node")
            codes = processes.stop()
            terminal.end(", ".join(f"{name} with code {code}" for name, code in codes.items()))
    return ran


def _work(client: DemoClient, world: World, route: Route, options: DemoOptions, terminal: Terminal) -> Ran:
    """What the client does while both processes run."""
    from gen3r_core.worlds.render_process import CameraSettings
    from gen3r_ros.demo.truth import TrueViews, requested_cameras, square_field_of_view

    recording = client.recording
    client.bring_up(_START_S + _MODEL_S)
    terminal.end("the model is loaded")
    terminal.step(f"driving {options.drive_m:g} m")
    client.listen_to_camera()

    def progress() -> str:
        return f"{len(recording.images)} images, {len(recording.revisions)} reconstructions"

    client.until(lambda: len(recording.images) > 1, _START_S, "receiving images", progress)
    client.until(lambda: client.stands(0), _DRIVE_S, "driving", progress)
    terminal.end(progress())
    terminal.step("reconstructing what was seen")
    newest = client.reconstruct(_ACTION_S)
    start = recording.camera_pose(newest)
    if newest not in recording.keyframes or start is None or recording.intrinsics is None:
        why = recording.revisions[-1].get("reason", "") if recording.revisions else "nothing was reconstructed"
        raise DemoError(f"no reconstruction is metric, so that no path can be predicted: {why}")
    terminal.end(_facts(recording))
    here = client.here
    if here is None:
        raise DemoError("TF does not tell where the robot is")
    path = continued(route, (float(here[0, 3]), float(here[1, 3])), world)
    recording.requested = requested_cameras(path, recording.mount, start, VIEWS)
    hfov = square_field_of_view(recording.intrinsics, options.size)
    settings = CameraSettings(world.seed, None, (SIDE, SIDE), hfov, options.samples, options.cache_dir)
    with TrueViews(settings, recording.requested) as true_views:
        terminal.step(f"predicting {VIEWS} views along {route.length_m:.1f} m")
        client.predict(path, "", VIEWS, _ACTION_S)
        made = sum(not one.observed for one in recording.views)
        terminal.end(f"{len(recording.views)} views, {made} of them generated, in {recording.action_seconds:.1f} s")
        terminal.step("driving that path as well, and on")
        since, last = max(recording.base_poses), terminal.start + options.seconds - _REPORT_S
        client.drive(with_headings(np.concatenate([path[:, :2], route.after])))
        client.until(lambda: client.stands(since) or time.monotonic() > last, _DRIVE_S, "driving the path", progress)
        client.reconstruct(_ACTION_S)
        terminal.end(progress())
        terminal.step("rendering what the views should have shown")
        client.until(
            true_views.complete, _ACTION_S, "rendering the truth", lambda: f"{len(true_views.pictures)} of {VIEWS}"
        )
        truth = true_views.pictures
        terminal.end(f"{len(truth)} pictures")
    terminal.step("saving the map")
    file = options.output_dir / "cloud.ply"
    points = client.save_map(str(file.absolute()))
    terminal.end(f"{points} points in {file}")
    return Ran(recording, truth, newest, world, file, points)


def _facts(recording: Recording) -> str:
    last = recording.revisions[-1]
    return (
        f"revision {last['revision']}, {last['points_observed']} points from {last['keyframes']} keyframes, "
        f"{last['metres_per_unit']:.3f} m a unit"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        arguments: of the command line; None takes those of this process.

    Returns:
        0 when all of it ran, 1 when it did not, 130 when it was interrupted.
    """
    options = parse(arguments)
    terminal = Terminal()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        ran = run_graph(options, terminal)
        from gen3r_ros.demo.report import write_report

        write_report(ran, options, terminal)
    except KeyboardInterrupt:
        terminal.line("\ngen3r_demo: interrupted; all processes were ended")
        return 130
    except Gen3RError as error:
        terminal.line(f"\ngen3r_demo: error: {error}")
        return 1
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
