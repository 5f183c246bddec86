"""COLMAP models: both forms say the same, cameras of every model, and what is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gen3r_core.errors import InputError
from gen3r_core.io.colmap import _MODELS, read_colmap

CAMERAS = {
    1: ("SIMPLE_PINHOLE", (640, 480), (500.0, 320.0, 240.0)),
    2: ("PINHOLE", (640, 480), (500.0, 510.0, 320.0, 240.0)),
    3: ("SIMPLE_RADIAL", (640, 480), (500.0, 320.0, 240.0, 0.1)),
    4: ("RADIAL", (640, 480), (500.0, 320.0, 240.0, 0.1, 0.2)),
    5: ("OPENCV", (640, 480), (500.0, 510.0, 320.0, 240.0, 0.1, 0.2, 0.01, 0.02)),
    6: ("OPENCV_FISHEYE", (640, 480), (500.0, 510.0, 320.0, 240.0, 0.1, 0.2, 0.3, 0.4)),
    7: ("FULL_OPENCV", (640, 480), (500.0, 510.0, 320.0, 240.0, *(n / 100 for n in range(1, 9)))),
    8: ("SIMPLE_RADIAL_FISHEYE", (640, 480), (500.0, 320.0, 240.0, 0.1)),
    9: ("FULL_OPENCV", (640, 480), (500.0, 510.0, 320.0, 240.0, *[0.0] * 8)),
}
DISTORTION = {
    1: ("", ()),
    2: ("", ()),
    3: ("plumb_bob", (0.1, 0.0, 0.0, 0.0)),
    4: ("plumb_bob", (0.1, 0.2, 0.0, 0.0)),
    5: ("plumb_bob", (0.1, 0.2, 0.01, 0.02)),
    6: ("equidistant", (0.1, 0.2, 0.3, 0.4)),
    7: ("rational_polynomial", tuple(n / 100 for n in range(1, 9))),
    8: ("equidistant", (0.1, 0.0, 0.0, 0.0)),
    9: ("", ()),
}


def drawn():
    """Images: name, quaternion x y z w, translation, camera."""
    rng = np.random.default_rng(0)
    return [
        (f"folder/image {n}.png", Rotation.random(random_state=n).as_quat(), rng.normal(size=3), n)
        for n in CAMERAS
    ]  # fmt: skip


def write_text(folder):
    lines = [f"{n} {model} {size[0]} {size[1]} {' '.join(map(repr, k))}\n" for n, (model, size, k) in CAMERAS.items()]
    (folder / "cameras.txt").write_text("# cameras\n" + "".join(lines))
    text = ""
    for n, (name, q, t, camera) in enumerate(drawn()):
        text += f"{n} {q[3]!r} {q[0]!r} {q[1]!r} {q[2]!r} {t[0]!r} {t[1]!r} {t[2]!r} {camera} {name}\n".replace(
            "np.float64(", ""
        ).replace(")", "")
        text += "1.0 2.0 -1 3.0 4.0 7\n" if n % 2 else "\n"
    (folder / "images.txt").write_text("# images\n" + text)


def write_binary(folder):
    numbers = {model: n for n, (model, _) in enumerate(_MODELS)}
    data = struct.pack("<Q", len(CAMERAS))
    for n, (model, size, k) in CAMERAS.items():
        data += struct.pack(f"<iiQQ{len(k)}d", n, numbers[model], *size, *k)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(CAMERAS))
    for n, (name, q, t, camera) in enumerate(drawn()):
        data += struct.pack("<i7di", n, q[3], q[0], q[1], q[2], *t, camera) + name.encode() + b"\0"
        data += struct.pack("<Q", n % 3) + struct.pack("<ddq", 1, 2, 3) * (n % 3)
    (folder / "images.bin").write_bytes(data)


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_both_forms(tmp_path, write):
    write(tmp_path)
    found = read_colmap(tmp_path)
    assert [image.name for image in found] == [name for name, _, _, _ in drawn()]
    for image, (_, q, t, camera) in zip(found, drawn(), strict=True):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = Rotation.from_quat(q).as_matrix(), t
        np.testing.assert_allclose(image.T_world_cam @ T, np.eye(4), atol=1e-12)
        assert image.camera_id == camera
        assert image.camera.size == (480, 640)
        assert image.camera.intrinsics[0, 0] == 500
        assert image.camera.intrinsics[1, 1] in (500, 510)
        assert image.camera.intrinsics[:2, 2].tolist() == [320, 240]
        assert (image.camera.distortion_model, image.camera.distortion) == DISTORTION[camera]


def test_the_binary_form_may_end_anywhere(tmp_path):
    write_binary(tmp_path)
    for name in ("cameras.bin", "images.bin"):
        data = (tmp_path / name).read_bytes()
        for end in range(0, len(data), 7):
            (tmp_path / name).write_bytes(data[:end])
            with pytest.raises(InputError, match=r"\.bin"):
                read_colmap(tmp_path)
        (tmp_path / name).write_bytes(data)
    assert len(read_colmap(tmp_path)) == 9


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, cameras, images):
    folder = tmp_path_factory.mktemp("model")
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)
    try:
        assert read_colmap(folder) == []
    except InputError:
        return


@given(st.text(max_size=120), st.text(max_size=120))
def test_any_text(tmp_path_factory, cameras, images):
    folder = tmp_path_factory.mktemp("model")
    (folder / "cameras.txt").write_text(cameras, encoding="utf-8", errors="replace")
    (folder / "images.txt").write_text(images, encoding="utf-8", errors="replace")
    try:
        assert read_colmap(folder) == []
    except InputError:
        return


@pytest.mark.parametrize(
    ("camera", "image", "text"),
    [
        ("1 SPIRAL 640 480 500", "1 1 0 0 0 0 0 0 1 a.png", "'SPIRAL' is not known"),
        ("1 PINHOLE 640 480 500", "1 1 0 0 0 0 0 0 1 a.png", "has the numbers"),
        ("1 SIMPLE_PINHOLE 640 480 nan 1 1", "1 1 0 0 0 0 0 0 1 a.png", "has the numbers"),
        ("1 SIMPLE_PINHOLE 640 480 -5 1 1", "1 1 0 0 0 0 0 0 1 a.png", "focal lengths"),
        ("1 SIMPLE_PINHOLE 640 0 5 1 1", "1 1 0 0 0 0 0 0 1 a.png", "640x0"),
        ("1 FOV 640 480 500 500 1 1 0.5", "1 1 0 0 0 0 0 0 1 a.png", "the model FOV is not known here"),
        ("hello", "1 1 0 0 0 0 0 0 1 a.png", "line 1 is no camera"),
        ("1 SIMPLE_PINHOLE 640 480 5 1 1", "1 1 0 0 0 0 0 0 2 a.png", "has camera 2"),
        ("1 SIMPLE_PINHOLE 640 480 5 1 1", "1 1 0 0 0 0 0 0 1 ../a.png", "no file in a folder"),
        ("1 SIMPLE_PINHOLE 640 480 5 1 1", "1 2 0 0 0 0 0 0 1 a.png", "has the length 2"),
        ("1 SIMPLE_PINHOLE 640 480 5 1 1", "1 1 0 0 0", "line 1 is no image"),
    ],
)
def test_what_is_refused(tmp_path, camera, image, text):
    (tmp_path / "cameras.txt").write_text(camera + "\n")
    (tmp_path / "images.txt").write_text(image + "\n\n")
    with pytest.raises(InputError, match=text):
        read_colmap(tmp_path)


def test_unknown_models_and_no_model(tmp_path):
    with pytest.raises(InputError, match="no COLMAP model"):
        read_colmap(tmp_path)
    write_binary(tmp_path)
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QiiQQ", 1, 1, 99, 640, 480))
    with pytest.raises(InputError, match="the model 99"):
        read_colmap(tmp_path)
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(InputError, match="promises"):
        read_colmap(tmp_path)
