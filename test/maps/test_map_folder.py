"""The folder of a map: everything comes back, all of it or nothing is written, and nothing else is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_maps import assert_same_cloud, box_map
from training_clips import small_disk

from gen3r_core.errors import CancelledError, InputError, OutputError
from gen3r_core.maps import folder as folder_module
from gen3r_core.maps.folder import check_map_destination, read_map, write_map
from gen3r_core.maps.scene_map import MapFrame, SceneMap

FILES = [
    "cloud.ply",
    "colmap",
    "images",
    "map_bag",
    "mesh.ply",
    "poses.tum",
    "report.html",
    "run.json",
    "transforms.json",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class OneByOne(list):
    """Frames that may be gone through once, and not jumped about in."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()

    def __getitem__(self, index):
        raise AssertionError(f"frame {index} was asked for out of turn")


def test_everything_comes_back(tmp_path):
    made = box_map(5, generated=(4,), cameras=("/front/image_raw", "/rear/image_raw"), source="a.mcap", model="tiny")
    frames = OneByOne(made.frames)
    write_map(replace(made, frames=frames), tmp_path / "deep" / "map", depth=True)
    assert frames.passes == 1
    folder = tmp_path / "deep" / "map"
    assert names(folder) == sorted([*FILES, "depth", "poses_rear.tum"])
    assert names(tmp_path / "deep") == ["map"]
    found = read_map(folder)
    assert_same_cloud(found.cloud, made.cloud)
    for name in ("vertices", "colors", "triangles"):
        np.testing.assert_array_equal(getattr(found.mesh, name), getattr(made.mesh, name))
    assert (found.metric, found.run["source"], found.run["model"]) == (True, "a.mcap", "tiny")
    assert found.run["result"] == {
        "frames": 5, "generated_frames": 1, "cameras": ["/front/image_raw", "/rear/image_raw"],
        "points": len(made.cloud), "generated_points": int(made.cloud.generated.sum()), "triangles": 2,
    }  # fmt: skip
    assert len(found.frames) == 5
    for one, other in zip(found.frames, made.frames, strict=True):
        np.testing.assert_array_equal(one.T_world_cam, other.T_world_cam)
        np.testing.assert_array_equal(one.intrinsics, other.intrinsics)
        assert (one.stamp_ns, one.camera, one.generated) == (other.stamp_ns, other.camera, other.generated)
        assert np.abs(one.image.astype(int) - other.image).mean() < 2
        np.testing.assert_allclose(one.depth, other.depth, atol=0.00051)
    assert found.frames[-1].stamp_ns == made.frames[-1].stamp_ns
    assert [frame.stamp_ns for frame in found.frames[1:3]] == [frame.stamp_ns for frame in made.frames[1:3]]


def test_what_is_not_asked_for_is_not_written(tmp_path):
    made = box_map(3, mesh=False, metric=False)
    write_map(made, tmp_path / "map", mcap=False, report=False, images=False)
    assert names(tmp_path / "map") == ["cloud.ply", "colmap", "poses.tum", "run.json", "transforms.json"]
    found = read_map(tmp_path / "map")
    assert (found.metric, found.mesh) == (False, None)
    assert (found.frames[1].image == 128).all()
    np.testing.assert_array_equal(found.frames[1].T_world_cam, made.frames[1].T_world_cam)
    assert found.frames[1].depth is None
    write_map(made, tmp_path / "other", images=False)
    assert names(tmp_path / "other") == sorted(set(FILES) - {"images", "mesh.ply"})
    assert "What was seen" not in (tmp_path / "other" / "report.html").read_text()


def test_an_empty_map(tmp_path):
    write_map(box_map(0, mesh=False), tmp_path / "map")
    found = read_map(tmp_path / "map")
    assert (len(found.frames), len(found.cloud)) == (0, 0)
    assert "The map is empty" in (tmp_path / "map" / "report.html").read_text()


def test_depth_beyond_16_bits_or_unknown_is_unknown(tmp_path):
    made = box_map(1, mesh=False)
    depth = np.zeros_like(made.frames[0].depth)
    depth[0, :6] = 65.535, 65.537, 0.0004, -1, np.nan, np.inf
    frame = replace(made.frames[0], depth=depth)
    write_map(replace(made, frames=[frame]), tmp_path / "map", depth=True, mcap=False, report=False)
    found = read_map(tmp_path / "map").frames[0].depth
    np.testing.assert_allclose(found[0, :6], [65.535, 0, 0, 0, 0, 0], atol=1e-5)


def test_values_that_json_has_not(tmp_path):
    run = {"seconds": {"a": float("nan")}, "path": Path("x"), "n": np.int64(3), "v": np.array([1.0, np.inf]), "s": {1}}
    write_map(box_map(1, **run), tmp_path / "map", mcap=False)
    found = json.loads((tmp_path / "map" / "run.json").read_text())
    assert {name: found[name] for name in run} == {
        "seconds": {"a": None},
        "path": "x",
        "n": 3,
        "v": [1.0, None],
        "s": [1],
    }


def test_an_earlier_map_goes_as_a_whole(tmp_path):
    write_map(box_map(6), tmp_path / "map", depth=True)
    write_map(box_map(2, mesh=False), tmp_path / "map")
    assert names(tmp_path / "map") == sorted(set(FILES) - {"mesh.ply"})
    assert names(tmp_path / "map" / "images") == ["000000.jpg", "000001.jpg"]
    assert names(tmp_path) == ["map"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"other things in it \(thesis\.tex\).*another --output_dir"):
        write_map(box_map(1), tmp_path)
    assert names(tmp_path) == ["thesis.tex"]
    for name in "abc":
        (tmp_path / name).touch()
    with pytest.raises(OutputError, match=r"\(a, b, c, \.\.\.\)"):
        check_map_destination(tmp_path)
    with pytest.raises(OutputError, match="is a file and not a folder"):
        check_map_destination(tmp_path / "thesis.tex")
    check_map_destination(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_map_destination(tmp_path / "empty")


def test_what_may_not_be_written_to_or_read(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "access", lambda *_: False)
        with pytest.raises(OutputError, match="may not be written to"):
            check_map_destination(tmp_path / "new")

    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(OutputError, match="Permission denied; choose another"):
        check_map_destination(tmp_path)


def failing_frames(made, error):
    class Frames(list):
        def __iter__(self):
            yield made.frames[0]
            raise error

    return replace(made, frames=Frames(made.frames))


@pytest.mark.parametrize("error", [InputError("the work folder is gone"), KeyboardInterrupt(), OSError(5, "I/O")])
def test_what_fails_half_way_leaves_the_old_map(tmp_path, error):
    write_map(box_map(2), tmp_path / "map", mcap=False, report=False)
    before = tree(tmp_path / "map")
    with pytest.raises((type(error), OutputError)):
        write_map(failing_frames(box_map(4), error), tmp_path / "map")
    assert tree(tmp_path / "map") == before
    assert names(tmp_path) == ["map"]


def test_a_pose_that_is_not_rigid_is_named(tmp_path):
    made = box_map(2)
    frames = [made.frames[0], replace(made.frames[1], T_world_cam=np.diag([2.0, 1, 1, 1]))]
    with pytest.raises(InputError, match="frame 1 of the map: camera pose 0 is not a rigid transform"):
        write_map(replace(made, frames=frames), tmp_path / "map")
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_map(tmp_path):
    write_map(box_map(1), tmp_path / "map", mcap=False, report=False)
    before = tree(tmp_path / "map")
    with small_disk(20_000), pytest.raises(OutputError, match="cannot write"):
        write_map(box_map(6), tmp_path / "map")
    assert tree(tmp_path / "map") == before
    assert names(tmp_path) == ["map"]


def test_progress_and_cancelling(tmp_path):
    told = []
    write_map(box_map(4), tmp_path / "map", progress=told.append)
    assert {one.stage for one in told} == {"write"}
    steps = [one.step for one in told]
    assert steps == sorted(steps)
    assert (steps[0], told[-1].step) == (0, told[-1].total)
    for stop in (2, len(told) - 3):
        with pytest.raises(CancelledError):
            write_map(box_map(4), tmp_path / "other", progress=lambda one, stop=stop: one.step < stop)
        assert names(tmp_path) == ["map"]


KILLED = """
import os, signal, sys
from pathlib import Path
from made_maps import box_map
from gen3r_core.maps import folder
from gen3r_core.maps.folder import write_map
name, target = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(folder, name, die)
write_map(box_map(3), Path(target))
"""


def test_what_is_killed_leaves_the_old_map_and_is_cleared_away(tmp_path):
    write_map(box_map(2), tmp_path / "map", mcap=False, report=False)
    before = tree(tmp_path / "map")
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])])
    for name in ("write_bag", "write_json_atomic"):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, name, tmp_path / "map"],
            env={**os.environ, "PYTHONPATH": path}, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
        assert tree(tmp_path / "map") == before
        left = [one for one in names(tmp_path) if one != "map"]
        assert len(left) == 1  # the other one was cleared away
        assert left[0].startswith(".partial-map-")
    write_map(box_map(3), tmp_path / "map", mcap=False, report=False)
    assert names(tmp_path) == ["map"]
    assert len(read_map(tmp_path / "map").frames) == 3


LIGHT = """
import json, sys, tempfile
from pathlib import Path
from made_maps import box_map
from gen3r_core.maps.folder import read_map, write_map
with tempfile.TemporaryDirectory() as folder:
    write_map(box_map(2), Path(folder) / "map", depth=True, report=False)
    read_map(Path(folder) / "map").frames[0]
print(json.dumps(sorted({"torch", "open3d", "scipy", "transformers"} & set(sys.modules))))
"""


def test_a_robots_node_writes_maps_without_pytorch():
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# --- reading -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "map"
    write_map(box_map(3), folder, depth=True, report=False)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "map"))


def test_what_is_no_map(tmp_path):
    with pytest.raises(InputError, match="no such folder of a map"):
        read_map(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no map \(no run\.json\)"):
        read_map(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"not the run\.json of a map"):
        read_map(tmp_path)
    (tmp_path / "run.json").write_text('{"metric": tr')
    with pytest.raises(InputError, match=r"run\.json: this file cannot be read"):
        read_map(tmp_path)


def test_damaged_files_are_named(copy):
    (copy / "images" / "000001.jpg").write_bytes(b"no picture")
    frames = read_map(copy).frames
    assert frames[0].stamp_ns is not None
    with pytest.raises(InputError, match=r"000001\.jpg"):
        frames[1]
    (copy / "images" / "000001.jpg").unlink()
    with pytest.raises(InputError, match=r"000001\.jpg"):
        list(frames)
    smaller = replace(box_map(1).frames[0], image=np.zeros((8, 8, 3), np.uint8), depth=None)
    folder_module._write_frame(copy, 1, smaller, images=True, depth=False)
    with pytest.raises(InputError, match=r"the image is \(8, 8\).*was it changed"):
        frames[1]
    shutil.copy(copy / "images" / "000001.jpg", copy / "depth" / "000002.png")
    with pytest.raises(InputError, match=r"000002\.png: the depth is"):
        frames[2]
    (copy / "depth" / "000002.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"000002\.png: this depth image is missing or damaged"):
        frames[2]
    data = (copy / "cloud.ply").read_bytes()
    (copy / "cloud.ply").write_bytes(data[:-5])
    with pytest.raises(InputError, match=r"cloud\.ply: the PLY file is truncated"):
        read_map(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("camera_axes"), "camera_axes"),
        (lambda content: content.update(frames={}), "camera_axes"),
        (lambda content: content["frames"][1].pop("fl_x"), "frame 1 is damaged"),
        (lambda content: content["frames"][1].update(transform_matrix=[[1.0]]), "frame 1 is damaged"),
        (lambda content: content["frames"][1].update(file_path="../../etc/passwd"), "frame 1 is damaged"),
        (lambda content: content["frames"][1].update(file_path="/etc/passwd"), "frame 1 is damaged"),
        (lambda content: content["frames"][2].update(w=10**9), "frame 2 is damaged"),
        (lambda content: content["frames"][2].update(stamp_ns="noon"), "frame 2 is damaged"),
        (lambda content: content["frames"].append(7), "frame 3 is damaged"),
        (lambda content: content.clear(), "no transforms.json of a map"),
    ],
)
def test_damaged_cameras_are_named(copy, change, words):
    path = copy / "transforms.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        read_map(copy)
    path.unlink()
    with pytest.raises(InputError, match="is this the folder of a map"):
        read_map(copy)


def test_frames_and_clouds_that_make_no_sense():
    good = box_map(1).frames[0]
    wrong = {
        "image": np.zeros((4, 4), np.uint8),
        "T_world_cam": np.eye(3),
        "intrinsics": np.full((3, 3), np.nan),
        "depth": np.zeros((2, 2), np.float32),
    }
    for name, value in wrong.items():
        with pytest.raises(InputError):
            replace(good, **{name: value})
    with pytest.raises(InputError, match="focal lengths"):
        replace(good, intrinsics=np.diag([-1.0, 1, 1]))
    assert isinstance(good, MapFrame)
    cloud = box_map(1).cloud
    with pytest.raises(InputError, match=r"colors of a map's cloud must be \[\d+, 3\] uint8"):
        replace(cloud, colors=cloud.colors.astype(np.float32))
    points = cloud.points.copy()
    points[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 352 points"):
        replace(cloud, points=points)
    mesh = box_map(1).mesh
    with pytest.raises(InputError, match="vertices that are not there"):
        replace(mesh, triangles=np.array([[0, 1, 4]], np.int32))
    with pytest.raises(InputError, match="triangles of a map's mesh"):
        replace(mesh, triangles=mesh.triangles.astype(np.int64))
    assert isinstance(box_map(1), SceneMap)
