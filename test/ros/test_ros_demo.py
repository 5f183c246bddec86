"""The demonstration: its parts on known input, and a whole run with a tiny random model."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from ros_graph import ROOT

from gen3r_core.checkpoint.precheck import check_checkpoint
from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.io.images import read_image
from gen3r_core.io.ply import read_ply, write_ply
from gen3r_core.io.video import read_video
from gen3r_core.reconstruction.cloud import PointCloud
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.robot import first_blocked
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import make_world
from gen3r_ros.demo.figures import TARGETS, cloud_scale, path_error, view_figures
from gen3r_ros.demo.layout import colored_depth, evenly
from gen3r_ros.demo.main import Ran, main, node_arguments, simulator_arguments
from gen3r_ros.demo.options import DemoOptions, parse
from gen3r_ros.demo.page import Row, build_page
from gen3r_ros.demo.processes import DemoError, Processes, graph_variables
from gen3r_ros.demo.processes import own_domain as demo_domain
from gen3r_ros.demo.recording import Keyframe, Recording, View
from gen3r_ros.demo.report import write_report
from gen3r_ros.demo.route import continued, plan_route
from gen3r_ros.demo.terminal import Terminal
from gen3r_ros.demo.truth import requested_cameras, square_field_of_view

WORLD = 8
HFOV = math.radians(75)
MOUNT = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0.6], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def world():
    return make_world(world_seed("test", WORLD))


def base_pose(x, y, heading):
    T = np.eye(4)
    T[:2, :2] = [[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]]
    T[:2, 3] = x, y
    return T


class Perfect:
    """A run in which everything is as it should be: what was published is the truth."""

    def __init__(self, world, folder):
        self.world = world
        route = plan_route(world, 0, 1.0, 0.6, 0.0)
        camera = WorldCamera(world, (48, 64), HFOV, samples=1)
        side_camera = WorldCamera(world, (48, 48), square_field_of_view(camera.intrinsics, (48, 64)), samples=1)
        recording = Recording(mount=MOUNT, intrinsics=camera.intrinsics, model="perfect")
        points, colors = [], []
        for number, index in enumerate((0, 7, 14, 20)):
            (x, y), (nx, ny) = (
                route.drive[index - 1 if index == 20 else index],
                route.drive[index if index == 20 else index + 1],
            )
            stamp = 10**9 * (number + 1)
            recording.base_poses[stamp] = base_pose(x, y, math.atan2(ny - y, nx - x))
            pose = recording.camera_pose(stamp)
            picture = camera.picture(pose)
            recording.images[stamp], recording.true_depths[stamp] = picture.colors, picture.depth
            recording.keyframes[stamp] = Keyframe(stamp, pose)
            u, v = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
            rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.intrinsics).T
            points.append((rays * picture.depth[..., None]).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3])
            colors.append(picture.colors.reshape(-1, 3) / 255)
        self.newest = stamp
        recording.revisions.append(
            {"revision": 1, "metric": True, "metres_per_unit": 2.0, "residual_m": math.nan, "points_observed": 9,
             "keyframes": 4, "seconds": 1.0, "stamp_ns": stamp, "reason": ""}
        )  # fmt: skip
        here = recording.base_poses[stamp]
        recording.path = continued(route, (here[0, 3], here[1, 3]), world)
        recording.requested = requested_cameras(recording.path, MOUNT, recording.camera_pose(stamp), 5)
        self.truth = [side_camera.picture(pose) for pose in recording.requested]
        recording.views = [
            View(one.colors, one.depth, pose, number == 0, True)
            for number, (one, pose) in enumerate(zip(self.truth, recording.requested, strict=True))
        ]
        self.recording = recording
        self.cloud = PointCloud(np.concatenate(points), np.concatenate(colors))
        self.file = folder / "cloud.ply"
        write_ply(self.file, self.cloud)

    def ran(self):
        return Ran(self.recording, self.truth, self.newest, self.world, self.file, len(self.cloud))


@pytest.fixture(scope="module")
def perfect(world, tmp_path_factory):
    return Perfect(world, tmp_path_factory.mktemp("perfect"))


# ---------------------------------------------------------------------- options and route


def test_options_from_a_command_line(tmp_path):
    own = parse(["--output_dir", str(tmp_path), "--world", "9", "--checkpoint", "random:tiny", "--timeout", "99"])
    assert (own.output_dir, own.world, own.checkpoint, own.timeout_s) == (tmp_path, 9, "random:tiny", 99.0)
    assert own.size == (240, 320)
    assert "goal_path:=drive" in simulator_arguments(own)
    assert "world:=9" in simulator_arguments(own)
    assert "checkpoint:=random:tiny" in node_arguments(own)
    assert not any(word.startswith("checkpoint") for word in node_arguments(DemoOptions()))
    cached = dataclasses.replace(own, cache_dir=tmp_path, checkpoint="weights")
    assert f"cache_folder:={tmp_path}" in simulator_arguments(cached)
    assert any(word.startswith("checkpoint:=/") for word in node_arguments(cached))  # the node may run elsewhere


@pytest.mark.parametrize(
    "changes",
    [{"world": -1}, {"drive_m": 0.1}, {"path_m": 99.0}, {"after_m": -1.0}, {"seconds": 0.0}, {"width": 66},
     {"samples": 9}, {"timeout_s": 1.0}],
)  # fmt: skip
def test_options_that_make_no_sense(changes):
    with pytest.raises(InputError):
        DemoOptions(**changes)


def test_wrong_options_end_with_a_usage_line(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--path_m", "1000"])
    assert ended.value.code == 2
    assert "predicts 0.2 to 20 m, got" in capsys.readouterr().err


def test_a_route_in_three_parts(world):
    route = plan_route(world, 0, 3.0, 1.2, 2.0)
    assert route.length_m == pytest.approx(1.2, abs=0.06)
    assert np.linalg.norm(np.diff(route.drive, axis=0), axis=1).sum() == pytest.approx(3.0, abs=0.06)
    np.testing.assert_array_equal(route.drive[-1], route.path[0])
    assert first_blocked(world, np.concatenate([route.drive, route.path, route.after])) is None
    with pytest.raises(InputError, match="do not fit in"):
        plan_route(world, 0, 49.0, 1.0, 0.0)


def test_the_path_goes_on_from_where_the_robot_stopped(world):
    route = plan_route(world, 0, 3.0, 1.2, 0.0)
    beyond = tuple(route.path[2])
    path = continued(route, beyond, world)
    np.testing.assert_allclose(path[0, :2], beyond)
    np.testing.assert_allclose(path[1:-1, :2], route.path[3 : 2 + len(path) - 1])
    step = path[1, :2] - path[0, :2]
    assert path[0, 2] == pytest.approx(math.atan2(step[1], step[0]))
    with pytest.raises(InputError, match="runs into something"):
        continued(route, (0.0, 0.0), world)


# ---------------------------------------------------------------------- figures


def test_figures_of_a_perfect_run(perfect):
    assert path_error(perfect.recording) == pytest.approx(0.0, abs=1e-9)
    assert cloud_scale(perfect.cloud.points, perfect.recording) == pytest.approx(1.0, abs=2e-3)
    found = view_figures(perfect.recording, perfect.truth, perfect.newest)
    assert found.figures["novel_view_psnr"] == pytest.approx(100.0)
    assert found.figures["novel_view_depth_absrel"] == pytest.approx(0.0, abs=1e-6)
    assert 5 < found.figures["baseline_psnr"] < 40
    assert found.figures["novel_view_gain_db"] == pytest.approx(100 - found.figures["baseline_psnr"])


def test_figures_tell_what_is_wrong(perfect):
    """A cloud 4 % too large, keyframes 3 cm off, and views that are the first image again and again."""
    own = dataclasses.replace(perfect.recording)
    centre = own.camera_pose(perfect.newest)[:3, 3]
    only = {perfect.newest: own.keyframes[perfect.newest]}
    newest = dataclasses.replace(own, keyframes=only)
    larger = (perfect.cloud.points - centre) * 1.04 + centre
    assert cloud_scale(larger, newest) == pytest.approx(1.04, abs=0.01)
    moved = {}
    for stamp, one in own.keyframes.items():
        pose = one.pose.copy()
        pose[:3, 3] += [0.0, 0.03, 0.0]
        moved[stamp] = Keyframe(stamp, pose)
    assert path_error(dataclasses.replace(own, keyframes=moved)) == pytest.approx(0.03)
    first = own.views[0]
    still = [dataclasses.replace(first, observed=one.observed) for one in own.views]
    found = view_figures(dataclasses.replace(own, views=still), perfect.truth, perfect.newest)
    assert abs(found.figures["novel_view_gain_db"]) < 3  # the newest keyframe is the nearest of almost all
    assert found.figures["novel_view_depth_absrel"] > 0.01


def test_images_that_came_after_the_prediction_are_no_baseline(perfect):
    later = dataclasses.replace(perfect.recording)
    later.images = {**later.images, 99: np.zeros_like(later.images[perfect.newest])}
    later.base_poses = {**later.base_poses, 10**12: later.base_poses[perfect.newest]}
    later.images[10**12] = later.images.pop(99)
    a, b = (view_figures(one, perfect.truth, perfect.newest) for one in (perfect.recording, later))
    assert a.figures == b.figures


def test_nothing_to_measure():
    empty = Recording()
    assert path_error(empty) is None
    assert cloud_scale(np.zeros((5, 3)), empty) is None
    assert empty.camera_pose(1) is None


def test_targets_say_whether_they_are_met():
    by_name = {target.name: target for target in TARGETS}
    scale, gain = by_name["scale_error"], by_name["novel_view_gain_db"]
    assert (scale.met(0.03), scale.met(0.031), scale.met(None), scale.met(math.nan)) == (True, False, False, False)
    assert (gain.met(2.0), gain.met(1.9)) == (True, False)
    assert scale.show(0.0123) == "1.23 %"
    assert gain.show(None) == "not known"


# ---------------------------------------------------------------------- pictures and pages


def test_depths_share_one_range():
    near, far = np.full((2, 2), 1.0), np.array([[1.0, 2.0], [0.0, np.nan]])
    reference = np.array([[1.0, 2.0], [1.0, 2.0]])
    colored = colored_depth([reference, near, far])
    assert (colored[0][0, 0] == colored[1][0, 0]).all()
    assert (colored[0][0, 1] == colored[2][0, 1]).all()
    assert not colored[2][1].any()
    assert evenly(10, 3) == [0, 4, 9]


def test_the_page_needs_no_other_file():
    figures = {"scale_error": 0.01, "cloud_median_error_m": 0.2, "path_error_m": None, "model": "<b>", "list": [1]}
    page = build_page("A & B", "intro", figures, [Row("Row", [np.zeros((4, 4, 3), np.uint8)], ["one"])], b"video")
    assert "A &amp; B" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("src=") == page.count('src="data:') == 2
    assert page.count("class=met>") == 1
    assert page.count("class=missed>") == 3


def test_a_report_is_written_whole(perfect, tmp_path):
    out = io.StringIO()
    options = DemoOptions(output_dir=tmp_path / "out", width=64, samples=1)
    figures = write_report(perfect.ran(), options, Terminal(out))
    written = json.loads((options.output_dir / "report.json").read_text())
    assert written == figures
    needed = {"cloud_median_error_m", "cloud_points", "scale_error", "path_error_m", "novel_view_psnr",
              "baseline_psnr", "views", "seconds", "model", "revision", "world_seed", "crossfade_psnr"}  # fmt: skip
    assert needed <= set(written)
    assert written["cloud_median_error_m"] < 1e-4
    assert written["model_path_residual_m"] is None  # it was not a number
    assert read_image(options.output_dir / "picture.png").shape == (900, 1600, 3)
    assert len(read_video(options.output_dir / "demo.mp4")) > 20
    assert "<img" in (options.output_dir / "report.html").read_text()
    told = out.getvalue()
    assert told.count(" met\n") == 4
    assert str(options.output_dir / "report.html") in told


# ---------------------------------------------------------------------- processes and terminal


def watch(processes, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        processes.check()
        time.sleep(0.05)


def test_a_process_that_dies_is_told_with_the_end_of_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("node", "this_module_is_not_there", [])
        with pytest.raises(DemoError, match=r"(?s)node ended with exit code 1.*No module named this_module"):
            watch(processes, 10.0)


def test_processes_end_with_the_block(tmp_path):
    with Processes(tmp_path, {"WHO": "me"}) as processes:
        pid = processes.start("quiet", "http.server", ["0", "--bind", "127.0.0.1"])
        processes.check()
        assert b"WHO=me" in (open(f"/proc/{pid}/environ", "rb").read())  # noqa: PTH123, SIM115
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_does_not_listen_is_killed(tmp_path):
    (tmp_path / "deaf.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(99)\n"
    )
    with Processes(tmp_path, {"PYTHONPATH": str(tmp_path)}) as processes:
        processes.start("deaf", "deaf", [])
        until = time.monotonic() + 10
        while "deaf" not in processes.tail("deaf") and time.monotonic() < until:
            time.sleep(0.05)
        assert processes.stop(0.3) == {"deaf": -signal.SIGKILL}


def test_demonstrations_have_domains_of_their_own(tmp_path):
    with demo_domain() as first, demo_domain() as second:
        assert first != second
        variables = graph_variables(first, tmp_path)
    assert variables["ROS_DOMAIN_ID"] == str(first)
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_a_terminal_is_written_over_and_a_file_is_not():
    class Screen(io.StringIO):
        def isatty(self):
            return True

    texts = []
    for stream in (Screen(), io.StringIO()):
        terminal = Terminal(stream)
        terminal.step("driving")
        time.sleep(0.25)
        terminal.more("half way")
        terminal.end("3 images")
        texts.append(stream.getvalue())
    assert "half way" in texts[0]
    assert "half way" not in texts[1]
    assert all("driving: 3 images" in text for text in texts)


# ---------------------------------------------------------------------- the whole


def command(folder, *words):
    return [sys.executable, "-m", "gen3r_ros.demo.main", "--output_dir", str(folder), "--checkpoint", "random:tiny",
            "--width", "64", "--samples", "1", *words]  # fmt: skip


def test_a_world_that_is_too_small_is_said_before_anything_starts(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path), "--drive_m", "49"]) == 1
    assert "do not fit in" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_told(graph, tmp_path):
    words = command(tmp_path)
    words[words.index("random:tiny")] = str(tmp_path / "nowhere")
    done = subprocess.run(words, cwd=ROOT, env=graph, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1, done.stdout
    assert "configuring the node failed" in done.stdout
    assert "nowhere" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_all(graph, tmp_path):
    process = subprocess.Popen(
        command(tmp_path), cwd=ROOT, env=graph, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if "driving" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(30) == 130, rest
    assert "interrupted; all processes were ended" in rest
    assert not list(tmp_path.glob("report*"))


@pytest.mark.slow
def test_a_model_that_tells_no_scale_is_said(graph, tmp_path):
    """All processes run and the robot drives; but random weights do not know where things are."""
    words = command(tmp_path, "--drive_m", "1.5", "--path_m", "0.5", "--after_m", "0")
    done = subprocess.run(words, cwd=ROOT, env=graph, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "images," in done.stdout
    assert "no reconstruction is metric" in done.stdout
    assert {"node.log", "simulator.log"} <= {file.name for file in (tmp_path / "logs").glob("*.log")}


@pytest.mark.slow
def test_the_demonstration(graph, tmp_path):
    """With the packaged model, in small pictures; what the figures have to be, the demonstration itself says."""
    try:
        check_checkpoint(None)
    except Gen3RError as error:
        pytest.skip(f"no packaged model: {error}")
    words = command(tmp_path, "--drive_m", "2", "--path_m", "0.5", "--after_m", "0.5")
    at = words.index("--checkpoint")
    del words[at : at + 2]
    done = subprocess.run(words, cwd=ROOT, env=graph, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["views"] == 17
    assert figures["path_error_m"] < 0.05
    assert len(read_ply(tmp_path / "cloud.ply")) == figures["cloud_points"] > 0
