"""`gen3r reconstruct` end to end with a random model: what it says, writes, and does when it is stopped."""

import contextlib
import json
import signal
import time

import numpy as np
import pytest
import torch
from bag_writer import Drive, write_drive
from offline_recordings import TINY, assert_same_maps, reconstruct, run_of, start

from gen3r_core.cli import main
from gen3r_core.errors import CancelledError, InputError
from gen3r_core.mapping.windows import WindowOptions
from gen3r_core.maps.folder import read_map
from gen3r_core.offline.model import OfflineModel
from gen3r_core.offline.options import OfflineOptions, Stretch
from gen3r_core.offline.run import reconstruct as run_reconstruct
from gen3r_core.offline.work import WorkFolder, work_folder_of
from gen3r_core.recordings.shots import ShotOptions


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("bag") / "drive", Drive(seconds=1.0))


@pytest.fixture(scope="module")
def made(bag, tmp_path_factory):
    """A map without poses, and what the command printed."""
    folder = tmp_path_factory.mktemp("map") / "out"
    assert reconstruct(bag, folder, "--poses", "none") == 0
    return folder


def test_a_bag_becomes_a_map(made):
    run, found = run_of(made), read_map(made)
    assert run["keyframes"] == len(found.frames) == 10
    assert run["windows"] == 4
    assert run["points"] == len(found.cloud) > 100
    assert run["exit_code"] == 0
    assert run["lost"] == {}
    assert set(run["seconds"]) == {"select", "windows", "match", "graph", "views", "fuse"}
    assert found.frames[0].size == (42, 56)
    assert not work_folder_of(made).exists()


def test_without_poses_it_says_why_it_is_not_in_metres(made):
    run = run_of(made)
    assert run["metric"] is False
    assert "poses are not wanted" in run["why_not_metric"]


def test_with_tf_it_is_in_metres_and_keeps_the_intrinsics(bag, tmp_path, capsys):
    assert reconstruct(bag, tmp_path / "out") == 0
    run, found = run_of(tmp_path / "out"), read_map(tmp_path / "out")
    assert run["metric"]
    assert run["world"] == "odom"
    assert run["anchored"] == [{next(iter(run["anchored"][0])): run["windows"]}]
    assert "; metres" in capsys.readouterr().out
    T = np.stack([frame.T_world_cam for frame in found.frames])
    assert np.linalg.norm(T[-1, :3, 3] - T[0, :3, 3]) == pytest.approx(0.45, abs=0.1)
    # 64 pixels of 1.2 radians are 56 now, and the principal point is in the middle.
    K = found.frames[0].intrinsics
    assert K[0, 0] == pytest.approx(28 / np.tan(0.6), rel=1e-5)
    assert K[:2, 2] == pytest.approx([28, 21])


def test_depth_images_give_metres(tmp_path):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.6, depth=True, tf=False, tf_hz=0))
    assert reconstruct(bag, tmp_path / "out") == 0
    assert run_of(tmp_path / "out")["metric"]


def test_two_cameras_share_a_world_if_poses_are_known(tmp_path, capsys):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.8, cameras=("/left", "/right")))
    assert reconstruct(bag, tmp_path / "out", "--camera", "all", "--no-anchor") == 0
    found = read_map(tmp_path / "out")
    assert {frame.camera for frame in found.frames} == {"/left/image_raw", "/right/image_raw"}
    half = len(found.frames) // 2
    for left, right in zip(found.frames[:half], found.frames[half:], strict=True):
        assert left.stamp_ns == right.stamp_ns
        np.testing.assert_allclose(left.T_world_cam, right.T_world_cam, atol=0.05)  # both are mounted at one place
    assert reconstruct(bag, tmp_path / "other", "--camera", "all", "--poses", "none") == 1
    assert "name one (--camera /left/image_raw)" in capsys.readouterr().err
    assert not work_folder_of(tmp_path / "other").exists()


def test_views_are_generated_and_marked(bag, tmp_path):
    code = reconstruct(bag, tmp_path / "out", "--generate", "0.1:0.7", "--generate", "0.5:+0.3", "--mesh",
                       "--save-depth", "--no-anchor", "--steps", "2")  # fmt: skip
    run, found = run_of(tmp_path / "out"), read_map(tmp_path / "out")
    assert code == 0
    made = [frame for frame in found.frames if frame.generated]
    assert run["generated"]["frames"] == len(made) == 3 + 4
    assert found.cloud.generated.sum() == run["generated"]["points"] > 0
    assert run["generated"]["geometry"] == "latents"
    assert (found.cloud.frame[found.cloud.generated] >= run["keyframes"]).all()
    assert found.mesh is not None
    assert found.frames[0].depth is not None


def test_a_stretch_without_two_keyframes_is_refused_before_windows(bag, tmp_path, capsys):
    assert reconstruct(bag, tmp_path / "out", "--poses", "none", "--generate", "7:9") == 1
    assert f"{bag}: between 7 s and 9 s there are no two keyframes" in capsys.readouterr().err
    work = json.loads((work_folder_of(tmp_path / "out") / "work.json").read_text())
    assert list(work["begun"]) == ["select"]


def test_no_graph_joins_windows_in_a_chain(bag, tmp_path):
    assert reconstruct(bag, tmp_path / "out", "--no-graph") == 0
    run = run_of(tmp_path / "out")
    assert not run["metric"]
    assert "one behind the other" in run["why_not_metric"]
    assert run["anchored"] is None


def test_part_of_a_recording(bag, tmp_path):
    assert reconstruct(bag, tmp_path / "out", "--poses", "none", "--start", "0.3", "--end", "0.9", "--every", "2") == 0
    assert run_of(tmp_path / "out")["keyframes"] == 3


STAGES = ("select", "windows", "match", "graph", "views", "fuse", "write")


def test_options_of_late_stages_may_change(bag, tmp_path, capsys):
    """A wrong stretch, then a right one that is stopped in writing, then none and another cloud: windows stay."""
    out, plain = tmp_path / "out", ("--poses", "none", "--no-matches", "--no-graph")
    assert reconstruct(bag, out, *plain, "--generate", "7:9") == 1
    options = OfflineOptions(ShotOptions(poses="none"), 0.05, 10.0, 0.01, WindowOptions(4, 2), 56, matches=False,
                             graph=False, max_points=20000, stretches=(Stretch(0.1, 0.7),), steps=1)  # fmt: skip
    with pytest.raises(CancelledError):
        run_reconstruct(bag, out, _model(), options, resume=True, callback=lambda progress: progress.stage != "write")
    work = json.loads((work_folder_of(out) / "work.json").read_text())["done"]
    assert sum(work["generate"]["counts"]) == 3
    more = ("--resume", "--voxel", "0.2", "--mesh", "--no-confirm", "--save-depth")
    assert reconstruct(bag, out, *plain, *more, "--change", "0.5") == 1
    assert "'change': 0.01" in capsys.readouterr().err
    assert reconstruct(bag, out, *plain, *more) == 0
    assert reconstruct(bag, tmp_path / "new", *plain, *more) == 0
    assert_same_maps(out, tmp_path / "new")
    assert (out / "depth").is_dir()
    seconds = run_of(out)["seconds"]
    assert seconds == {**{name: round(work[name]["seconds"], 3) for name in seconds}, "fuse": seconds["fuse"]}
    assert list(seconds) == ["select", "windows", "graph", "views", "fuse"]


@pytest.mark.parametrize(("before", "now", "left"), [
    ({"b": 1, "c": 1}, {"b": 1, "c": 1}, "abc"),
    ({"b": 1, "c": 1}, {"b": 1, "c": 2}, "ab"),
    ({"b": 1, "c": 1}, {"b": 2, "c": 1}, "a"),
    (None, {"b": None, "c": 1}, "ab"),
])  # fmt: skip
def test_what_depends_on_changed_options_is_done_again(tmp_path, before, now, left):
    with WorkFolder(tmp_path / "w", {}, before, resume=False) as work:
        for name in "abc":
            with work.stage(name):
                pass
    for again in (now, before):  # what was dropped does not come back with the old options
        with WorkFolder(tmp_path / "w", {}, again, resume=True) as work:
            assert "".join(name for name in "abc" if work.facts_of(name) is not None) == left
            assert list(work.seconds) == list(left)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_anywhere_goes_on_to_the_same_map(bag, made, tmp_path, stage, capsys):
    """The callback stops it within the stage; a kill leaves no more behind (see the slow test)."""
    options, model = _like(made), _model()
    calls = []

    def stop(progress):
        calls.append(progress.stage)
        inner = {"join": "graph", "loops": "graph", "fusion": "views", "confirm": "fuse"}
        name = inner.get(progress.stage, progress.stage)
        return not (name == stage and progress.step >= 1)

    out = tmp_path / "out"
    with pytest.raises(CancelledError):
        run_reconstruct(bag, out, model, options, callback=stop)
    assert not (out / "run.json").exists()
    if stage != "select":  # of a stage that is not done nothing is kept
        assert reconstruct(bag, out, "--poses", "none") == 1
        assert "add --resume" in capsys.readouterr().err
    assert reconstruct(bag, out, "--poses", "none", *(["--resume"] if stage != "select" else [])) == 0
    assert_same_maps(out, made)


def _model():
    return OfflineModel("random:tiny", torch.device("cpu"))


def _like(made):
    """The options that the map was made with."""
    options = run_of(made)["options"]
    options["shots"]["cameras"] = tuple(options["shots"]["cameras"])
    return OfflineOptions(**{**options, "shots": ShotOptions(**options["shots"]),
                             "window": WindowOptions(**options["window"]), "stretches": ()})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.9])
def test_a_killed_run_goes_on_to_the_same_map(bag, made, tmp_path, share):
    """Killed at five moments of the time that the whole takes, its start not counted."""
    out = tmp_path / "out"
    total = sum(run_of(made)["seconds"].values())
    process = start(bag, out, "--poses", "none")
    while not (work_folder_of(out) / "work.json").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(share * total)
    process.kill()
    process.wait()
    assert reconstruct(bag, out, "--poses", "none", "--resume") == 0
    assert_same_maps(out, made)


@pytest.mark.slow
def test_ctrl_c_is_clean(bag, tmp_path):
    out = tmp_path / "out"
    process = start(bag, out, "--poses", "none")
    while not (work_folder_of(out) / "work.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in output
    assert not out.exists()


@pytest.mark.slow
def test_several_recordings_are_spread_and_the_worst_code_counts(bag, tmp_path, capfd):
    empty = tmp_path / "nothing.mcap"
    empty.write_bytes(b"")
    out = tmp_path / "maps"
    words = ["reconstruct", str(bag), str(bag), str(empty), "--output_dir", str(out), *TINY, "--poses", "none"]
    assert main([*words, "--device", "cpu", "cpu"]) == 1
    assert run_of(out / "drive")["exit_code"] == run_of(out / "drive_2")["exit_code"] == 0
    assert_same_maps(out / "drive", out / "drive_2")
    assert "nothing: failed (1)" in capfd.readouterr().out


def test_another_run_s_work_is_not_taken(bag, tmp_path):
    with WorkFolder(tmp_path / "w", {"model": "a"}, resume=False) as work, work.stage("select") as facts:
        facts["x"] = 1
    with pytest.raises(InputError, match="model a and not b"), WorkFolder(tmp_path / "w", {"model": "b"}, resume=True):
        pass
    with pytest.raises(InputError, match="add --resume"), WorkFolder(tmp_path / "w", {"model": "a"}, resume=False):
        pass
    with WorkFolder(tmp_path / "w", {"model": "a"}, resume=True) as work:
        assert work.facts_of("select")["x"] == 1
        with pytest.raises(InputError, match="at work here"), WorkFolder(tmp_path / "w", {"model": "a"}, resume=True):
            pass
    (tmp_path / "w" / "work.json").write_text("{")
    with WorkFolder(tmp_path / "w", {"model": "a"}, resume=True) as work:
        assert work.facts_of("select") is None
        work.remove()


def _work(folder, signature, error, *, stages=("select",), resume=False):
    """A run that is stopped in the last of its stages, and what of an earlier one it found."""
    with contextlib.suppress(type(error)), WorkFolder(folder, {"camera": signature}, resume=resume) as work:
        found = {one.name for one in folder.iterdir()} - {"work.json", "lock"}
        for stage in stages:
            with work.stage(stage):
                (folder / stage).touch()
                if stage == stages[-1]:
                    raise error
    return found


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_did_nothing_is_not_in_the_way(tmp_path, resume):
    folder = tmp_path / "w"
    assert _work(folder, "none", InputError("no such camera")) == set()
    assert not folder.exists()
    assert _work(folder, "left", RuntimeError("killed")) == set()
    assert folder.exists()
    two = ("select", "windows")
    assert _work(folder, "right", InputError("too dark"), stages=two, resume=resume) == set()
    assert {one.name for one in folder.iterdir()} == {*two, "work.json", "lock"}


@pytest.mark.parametrize("name", ["thesis.tex", "lock"])
def test_a_folder_of_somebody_s_is_not_touched(tmp_path, name):
    mine = tmp_path / "w" / name
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(InputError, match=f"holds something else .{name}."), WorkFolder(tmp_path / "w", {}, resume=True):
        pass
    assert {one: one.read_text() for one in mine.parent.iterdir()} == {mine: "years of work"}


def test_after_a_wrong_camera_the_right_one_will_do(bag, tmp_path, capsys):
    assert reconstruct(bag, tmp_path / "out", "--poses", "none", "--camera", "none") == 1
    assert "none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert reconstruct(bag, tmp_path / "out", "--poses", "none") == 0


def test_wrong_words_are_refused(bag, tmp_path, capsys):
    for more, words in (
        (("--generate", "5"), "SECOND:SECOND"),
        (("--generate", "5:3"), "to a later one"),
        (("--generate", "5:+0"), "to a later one"),
        (("--voxel", "0"), "voxel size"),
        (("--steps", "0"), "1 step or more"),
        (("--max-points", "0"), "room for at least 1"),
        (("--longest", "3"), "28 to 4096"),
        (("--spacing", "-1"), "translation_m"),
        (("--checkpoint", "random:huge"), "choose one of"),
        (("--checkpoint", str(tmp_path / "none")), "none"),
        (("--device", "tpu"), "use auto"),
    ):
        assert reconstruct(bag, tmp_path / "out", *more) == 1
        assert words in capsys.readouterr().err
    assert reconstruct(tmp_path / "nowhere", tmp_path / "out") == 1
    assert "there is no such recording" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert reconstruct(bag, tmp_path / "full") == 1
    assert "other things in it" in capsys.readouterr().err


def test_a_changed_recording_is_not_gone_on_with(tmp_path):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.3))
    out = tmp_path / "out"
    with pytest.raises(CancelledError):
        run_reconstruct(bag, out, _model(), OfflineOptions(), callback=lambda progress: progress.stage != "windows")
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(InputError, match="changed"):
        run_reconstruct(bag, out, _model(), OfflineOptions(), resume=True)
    json.loads((work_folder_of(out) / "work.json").read_text())


def test_a_map_in_the_recording_s_folder_does_not_change_it(tmp_path):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.3))
    (tmp_path / "link").symlink_to(tmp_path)
    out = tmp_path / "link" / "drive" / "maps" / "out"
    model, options = _model(), OfflineOptions(longest=28)
    for resume in (False, True):
        with pytest.raises(CancelledError):
            run_reconstruct(bag, out, model, options, resume=resume, callback=lambda progress: progress.stage != "fuse")
    (out.parent / ".partial-out-1").mkdir()
    (out.parent / ".partial-out-1" / "cloud.ply").write_text("of a run that was killed")
    assert run_reconstruct(bag, out, model, options, resume=True).exit_code == 0
    assert read_map(out)


def test_the_folder_one_is_in_is_not_replaced(bag, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for destination in (".", here, "../here"):
        assert reconstruct(bag, destination) == 1
        assert f"cannot write {here}: you are in this folder" in capsys.readouterr().err
    assert reconstruct(bag, "..") == 1
    assert "other things in it (here)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [here]
    (here / "inner").mkdir()
    monkeypatch.chdir(here / "inner")
    assert reconstruct(bag, "../map", "--poses", "none") == 0
    assert {one.name for one in here.iterdir()} == {"inner", "map"}
