import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError, OutputError
from gen3r_core.geometry.cameras import intrinsics_matrix
from gen3r_core.geometry.rigid import homogeneous, invert_rigid, quaternion_to_matrix
from gen3r_core.io.cameras import (
    format_gen3r_cameras,
    format_transforms,
    read_cameras,
    read_gen3r_cameras,
    read_transforms,
    read_transforms_files,
    write_gen3r_cameras,
    write_transforms,
)

SHARED = Path(os.environ.get("GEN3R_SHARED") or Path(__file__).resolve().parents[3] / "shared")
EYE = torch.eye(4).tolist()
K = [[100.0, 0, 32], [0, 120, 20], [0, 0, 1]]
PINHOLE = {"fl_x": 100.0, "fl_y": 120.0, "cx": 32.0, "cy": 20.0, "w": 64, "h": 40}


@st.composite
def cameras(draw):
    part = st.floats(-1, 1)
    quaternion = st.tuples(part, part, part, part).filter(lambda q: sum(x * x for x in q) > 0.1)
    frames = draw(st.integers(1, 4))
    q = torch.tensor([draw(quaternion) for _ in range(frames)], dtype=torch.float64)
    t = torch.tensor([[draw(st.floats(-1e6, 1e6)) for _ in range(3)] for _ in range(frames)], dtype=torch.float64)
    numbers = [torch.tensor([draw(st.floats(1, 1e5)) for _ in range(frames)], dtype=torch.float64) for _ in range(4)]
    return homogeneous(torch.cat([quaternion_to_matrix(q), t[..., None]], dim=-1)), intrinsics_matrix(*numbers)


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def transforms(**changes):
    return {"frames": [{"file_path": f"{i}.png", "transform_matrix": EYE, **PINHOLE} for i in range(3)], **changes}


@given(cameras())
@settings(deadline=None, max_examples=40)
def test_gen3r_round_trip(tmp_path_factory, values):
    poses, intrinsics = values
    path = tmp_path_factory.mktemp("cameras") / "cameras.json"
    write_gen3r_cameras(path, invert_rigid(poses)[:, :3], intrinsics)
    found = read_cameras(path)
    assert found.image_size == (560, 560)
    scale = max(1.0, float(poses.abs().max()))
    torch.testing.assert_close(found.T_world_cam, poses, atol=1e-9 * scale, rtol=0)
    assert torch.equal(found.intrinsics, intrinsics)


@given(cameras(), st.sampled_from(["opengl", "opencv"]))
@settings(deadline=None, max_examples=40)
def test_transforms_round_trip(tmp_path_factory, values, axes):
    poses, intrinsics = values
    path, names = tmp_path_factory.mktemp("cameras") / "transforms.json", [f"{i}.png" for i in range(len(poses))]
    write_transforms(path, poses, intrinsics, (40, 64), names, axes=axes)
    found = read_cameras(path, axes=axes, metres_per_unit=2.5)
    assert found.image_size == (40, 64)
    assert found.metres_per_unit == 2.5
    assert torch.equal(found.T_world_cam, poses)
    assert torch.equal(found.intrinsics, intrinsics)
    assert read_transforms_files(path) == names


def test_opengl_axes_are_turned(tmp_path):
    """A camera that OpenGL calls level looks along -z with y up; in OpenCV's axes y points down the world's y."""
    found = read_transforms(save(tmp_path / "t.json", transforms()))
    assert found.T_world_cam[0].tolist() == np.diag([1.0, -1, -1, 1]).tolist()
    assert torch.equal(read_transforms(tmp_path / "t.json", axes="opencv").T_world_cam[0], torch.eye(4).double())


def test_extrinsics_are_world_to_camera_and_may_be_3x4(tmp_path):
    moved = [[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0]]
    found = read_gen3r_cameras(save(tmp_path / "c.json", {"extrinsics": [moved], "intrinsics": [K]}), metres_per_unit=3)
    assert found.T_world_cam[0, :3, 3].tolist() == [-5, 0, 0]
    assert found.metres_per_unit == 3
    assert found.T_world_cam.dtype == found.intrinsics.dtype == torch.float64


@pytest.mark.parametrize(
    ("shared", "focal", "principal"),
    [
        ({"fl_x": 50, "w": 64, "h": 40}, (50, 50), (32, 20)),
        ({"fl_x": 50, "fl_y": 60, "cx": 30, "cy": 22, "w": 64.0, "h": 40}, (50, 60), (30, 22)),
        ({"camera_angle_x": math.pi / 2, "w": 64, "h": 40}, (32, 32), (32, 20)),
        ({"camera_angle_x": math.pi / 2, "camera_angle_y": math.pi / 2, "w": 64, "h": 40}, (32, 20), (32, 20)),
    ],
)
def test_numbers_given_once_for_all(tmp_path, shared, focal, principal):
    path = save(
        tmp_path / "t.json", {**shared, "frames": [{"transform_matrix": EYE}, {"transform_matrix": EYE, "cx": 1}]}
    )
    found = read_transforms(path)
    assert (len(found), found.image_size) == (2, (40, 64))
    first, second = found.intrinsics
    assert (first[0, 0], first[1, 1]) == pytest.approx(focal)
    assert (first[0, 2], first[1, 2]) == pytest.approx(principal)
    assert second[0, 2] == 1


def test_distortion_is_ignored_with_a_warning(tmp_path, caplog):
    read_transforms(save(tmp_path / "t.json", transforms(k1=0.0)))
    assert not caplog.records
    read_transforms(save(tmp_path / "t.json", transforms(k1=0.1)))
    assert "lens distortion" in caplog.text


def test_a_real_file():
    path = SHARED / "data" / "bedroom" / "cameras.json"
    if not path.is_file():
        pytest.skip(f"no real camera file at {path}")
    found, content = read_cameras(path), json.loads(path.read_text())
    assert len(found) == len(content["extrinsics"])
    product = found.T_world_cam @ torch.tensor(content["extrinsics"], dtype=torch.float64)
    torch.testing.assert_close(product, torch.eye(4).double().expand_as(product), atol=1e-9, rtol=0)


NAN_POSE = json.loads(json.dumps(EYE))
NAN_POSE[1][3] = float("nan")


def gen3r(extrinsics=(EYE, EYE), intrinsics=(K, K)):
    return {"extrinsics": list(extrinsics), "intrinsics": list(intrinsics)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1, 2]", r"holds a JSON object, got \[1, 2\]"),
        ({"x": 1}, r"neither a cameras.json .* nor a transforms.json .*\['x'\]"),
        ({"extrinsics": [EYE]}, "'intrinsics' must be a list .* got None"),
        (gen3r([], []), "'extrinsics' must be a list"),
        (gen3r([EYE], [K, K]), "1 extrinsics but 2 intrinsics"),
        (gen3r([EYE, [[1, 0], [0, 1]]]), r"frame 1: 'extrinsics' must be a 4x4 or 3x4 matrix .* shape \(2, 2\)"),
        (gen3r([EYE, [[1, 0], [0]]]), "frame 1: 'extrinsics' must be a 4x4 or 3x4 matrix"),
        (gen3r([EYE, "pose"]), "frame 1: .* got 'pose'"),
        (gen3r([EYE, [["1"] * 4] * 4]), "frame 1: 'extrinsics' must be a 4x4"),
        (gen3r([EYE, [[True] * 4] * 4]), "frame 1: 'extrinsics' must be a 4x4"),
        (gen3r([EYE, NAN_POSE]), "frame 1: 'extrinsics' contains NaN"),
        (gen3r([EYE, np.zeros((4, 4)).tolist()]), "frame 1: the last row of 'extrinsics' must be 0 0 0 1"),
        (gen3r([EYE, np.diag([1, 1, 0, 1.0]).tolist()]), "frame 1: 'extrinsics' is singular"),
        (gen3r([EYE, np.diag([1, 1, -1, 1.0]).tolist()]), "frame 1: 'extrinsics' is singular or mirrored"),
        (gen3r([EYE, np.diag([2, 2, 2, 1.0]).tolist()]), "pose of frame 1 is singular or not a rotation"),
        (gen3r(intrinsics=[K, np.zeros((3, 3)).tolist()]), "frame 1: focal lengths must be positive"),
        (gen3r(intrinsics=[K, [[100, 1, 32], *K[1:]]]), "frame 1: intrinsics must be .* without skew"),
        (gen3r(intrinsics=[K, EYE]), r"frame 1: 'intrinsics' must be a 3x3 .* shape \(4, 4\)"),
        ({"frames": []}, "'frames' must be a list of at least one"),
        ({"frames": [1]}, "frame 0 must be an object"),
        ({"frames": [PINHOLE]}, "frame 0 has no 'transform_matrix'"),
        ({"frames": [{**PINHOLE, "transform_matrix": NAN_POSE}]}, "frame 0: 'transform_matrix' contains NaN"),
        ({"frames": [{"transform_matrix": EYE, "fl_x": 9}]}, "frame 0 needs the image size .* got None and None"),
        ({"frames": [{"transform_matrix": EYE, **PINHOLE, "w": 6.5}]}, "whole numbers 'w' and 'h' .* got 6.5 and 40"),
        ({"frames": [{"transform_matrix": EYE, "w": 9, "h": 9}]}, "frame 0 needs a focal length 'fl_x'"),
        (
            {"frames": [{"transform_matrix": EYE, **PINHOLE, "cx": "a"}]},
            "frame 0: 'cx' must be a finite number, got 'a'",
        ),
        ({"frames": [{"transform_matrix": EYE, **PINHOLE, "cx": True}]}, "'cx' must be a finite number, got True"),
        ({"frames": [{"transform_matrix": EYE, **PINHOLE, "fl_x": -1}]}, "frame 0: focal lengths must be positive"),
        ({"frames": [{"transform_matrix": EYE, "camera_angle_x": 4, "w": 9, "h": 9}]}, "angle between 0 and pi, got 4"),
        (
            {"frames": [{"transform_matrix": EYE, **PINHOLE}, {"transform_matrix": EYE, **PINHOLE, "w": 65}]},
            r"frame 1 has \(40, 65\) and frame 0 \(40, 64\)",
        ),
    ],
)
def test_malformed_files(tmp_path, content, message):
    path = save(tmp_path / "bad.json", content)
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(path)
    assert str(caught.value).startswith(f"{path}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(EYE) | st.just(K),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["frames", "extrinsics", "intrinsics", "transform_matrix", *PINHOLE, "camera_angle_x", "k1"]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=20,
)


@given(JSON | st.builds(gen3r, st.lists(JSON, max_size=2), st.lists(JSON, max_size=2)))
@settings(deadline=None, max_examples=300)
def test_any_json_is_read_or_refused(tmp_path_factory, content):
    path = save(tmp_path_factory.mktemp("any") / "a.json", content)
    try:
        found = read_cameras(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert torch.isfinite(found.T_world_cam).all()


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: "):
        read_cameras(path)


def test_missing_folder_and_huge_files(tmp_path):
    with pytest.raises(InputError, match="there is no such camera file"):
        read_cameras(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_cameras(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="too many for a camera file"):
        read_cameras(tmp_path / "huge.json")


def test_file_names_are_wanted(tmp_path):
    content = transforms()
    del content["frames"][1]["file_path"]
    with pytest.raises(InputError, match="frame 1 needs a 'file_path', got None"):
        read_transforms_files(save(tmp_path / "t.json", content))


def test_generated_frames_are_left_out_where_only_what_was_seen_counts(tmp_path):
    """They may have another size, as generated views of our maps have."""
    content = transforms()
    content["frames"][0].update(generated=True, w=40)
    content["frames"][1]["generated"] = False
    path = save(tmp_path / "t.json", content)
    assert read_transforms(path, seen_only=True).image_size == (40, 64)
    assert len(read_transforms(path, seen_only=True).T_world_cam) == 2
    assert read_transforms_files(path, seen_only=True) == ["1.png", "2.png"]
    assert read_transforms_files(path) == ["0.png", "1.png", "2.png"]
    with pytest.raises(InputError, match=r"frame 1 has \(40, 64\) and frame 0 \(40, 40\)"):
        read_transforms(path)
    content["frames"][2]["w"] = 41
    with pytest.raises(InputError, match=r"frame 2 has \(40, 41\) and frame 1 \(40, 64\)"):
        read_transforms(save(path, content), seen_only=True)
    for frame in content["frames"]:
        frame["generated"] = True
    for read in (read_transforms, read_transforms_files):
        with pytest.raises(InputError, match="all of its 3 frames were generated"):
            read(save(path, content), seen_only=True)


def test_what_cannot_be_written():
    poses, intrinsics = torch.eye(4).expand(2, 4, 4), torch.tensor(K).expand(2, 3, 3)
    with pytest.raises(OutputError, match=r"got \(2, 4, 4\) and \(1, 3, 3\)"):
        format_gen3r_cameras(poses, intrinsics[:1])
    with pytest.raises(OutputError, match="NaN or infinite"):
        format_gen3r_cameras(poses * torch.nan, intrinsics)
    with pytest.raises(OutputError, match="each of 2 frames, got 1"):
        format_transforms(poses, intrinsics, (40, 64), ["a.png"])
    with pytest.raises(InputError, match="'opengl' or 'opencv', got 'ros'"):
        format_transforms(poses, intrinsics, (40, 64), ["a.png", "b.png"], axes="ros")
