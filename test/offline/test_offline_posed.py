"""Maps of COLMAP models with several cameras, all of which are where the model has them."""

import numpy as np
import pytest
from bag_writer import picture
from offline_recordings import reconstruct, run_of
from PIL import Image as Pillow

from gen3r_core.maps.folder import read_map
from gen3r_core.offline.placing import Placed, correction

COUNT, STEP = 8, 0.05


def model_of(folder, names, cameras, size=(128, 96)):
    """Images of ``size`` (width, height), ``STEP`` apart in x; ``cameras`` are COLMAP's of each."""
    for number, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size if isinstance(size, tuple) else size[number]
        Pillow.fromarray(picture(3 * number, (height, width))).save(path)
    sizes = dict(zip(cameras, [size] * COUNT if isinstance(size, tuple) else size, strict=True))
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(
        "".join(f"{n} PINHOLE {w} {h} 120 120 {w / 2} {h / 2}\n" for n, (w, h) in sizes.items())
    )
    lines = [f"{n + 1} 1 0 0 0 {-STEP * n} 0 0 {cameras[n]} {name}\n\n" for n, name in enumerate(names)]
    (model / "images.txt").write_text("".join(lines))
    return folder


def apart(found, camera=None):
    """Positions of frames in x, in steps."""
    return [frame.T_world_cam[0, 3] / STEP for frame in found.frames if camera in (None, frame.camera)]


def one_window(recording, destination, *more):
    """Windows of a random model do not fit together; one is enough here."""
    return reconstruct(recording, destination, "--window", "12", *more)


@pytest.mark.parametrize("cameras", [range(1, COUNT + 1), (1, 2) * (COUNT // 2)])
def test_cameras_of_one_folder(tmp_path, cameras):
    """One for each image, as COLMAP does by default, or two by turns: nothing need be named."""
    names = [f"f_{n}.png" for n in range(COUNT)]
    assert one_window(model_of(tmp_path / "in", names, cameras), tmp_path / "out") == 0
    assert run_of(tmp_path / "out")["keyframes"] == COUNT
    np.testing.assert_allclose(apart(read_map(tmp_path / "out")), range(COUNT), atol=0.02)


def test_cameras_in_folders(tmp_path):
    """Their times are made up, and those of one are after those of the other."""
    names = [f"cam{n % 2}/f_{n}.png" for n in range(COUNT)]
    recording = model_of(tmp_path / "in", names, (1, 2) * (COUNT // 2))
    assert one_window(recording, tmp_path / "out", "--camera", "all") == 0
    found = read_map(tmp_path / "out")
    np.testing.assert_allclose(apart(found, "cam0"), range(0, COUNT, 2), atol=0.02)
    np.testing.assert_allclose(apart(found, "cam1"), range(1, COUNT, 2), atol=0.02)


def test_a_first_camera_with_one_image(tmp_path):
    names = [f"f_{n}.png" for n in range(COUNT)]
    sizes = [(96, 128), *[(128, 96)] * (COUNT - 1)]
    recording = model_of(tmp_path / "in", names, range(1, COUNT + 1), sizes)
    assert one_window(recording, tmp_path / "out", "--camera", "all") == 0
    found = read_map(tmp_path / "out")
    assert {frame.camera for frame in found.frames} == {"images_96x128", "images_128x96"}
    np.testing.assert_allclose(apart(found), range(COUNT), atol=0.02)


def moved(*places):
    T = np.repeat(np.eye(4)[None], len(places), axis=0)
    T[:, 0, 3] = places
    return T


def placed(T):
    return Placed(True, "", np.ones(1), T, np.zeros(len(T), np.int64), {})


def test_corrections_hold_beyond_the_first_camera_s_time():
    known, stamps = moved(0, 1), [0, 10**9]
    T = correction(placed(moved(1, 4)), known, stamps, moved(0, 0, 0, np.nan), [-(10**9), 5 * 10**8, 10**10, 5])
    np.testing.assert_allclose(T[:3, 0, 3], [1, 2, 3])
    assert np.isnan(T[3]).any()


def test_corrections_of_a_first_camera_with_hardly_any_poses():
    none = np.full((1, 4, 4), np.nan)
    np.testing.assert_allclose(correction(placed(moved(7)), moved(5), [3], moved(0, 1), [1, 9]), moved(2, 3))
    np.testing.assert_allclose(correction(placed(moved(7)), none, [3], moved(0, 1), [1, 9]), moved(0, 1))
