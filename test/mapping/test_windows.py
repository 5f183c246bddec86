import json
import weakref

import numpy as np
import pytest
from pretend_vggt import PretendVggt, building, round_trip

from gen3r_core.errors import CancelledError, InputError, OutputError
from gen3r_core.mapping.windows import Prediction, SequenceFrame, WindowOptions, WindowStore, run_windows
from gen3r_core.progress import JobMonitor

SIZE = (6, 8)


class Counting:
    """Predicts anything, and remembers what it was asked."""

    name = "counting"

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(images[:, 0, 0, 0].tolist())
        count = len(images)
        poses = np.repeat(np.eye(4)[None], count, axis=0)
        ones = np.ones((count, *SIZE), dtype=np.float32)
        return Prediction(ones, ones, poses, np.repeat(np.eye(3)[None], count, axis=0), np.ones((count, 2)))


def images(count):
    for n in range(count):
        yield SequenceFrame(n, np.full((*SIZE, 3), n, dtype=np.uint8))


def cut(count, frames=5, overlap=2):
    model = Counting()
    with WindowStore(None, {}) as store:
        names = run_windows(images(count), model, store, WindowOptions(frames, overlap))
        found = [store.get(name).frames.tolist() for name in names]
    assert model.calls == found
    return found


def test_windows_overlap_and_the_last_is_whole():
    assert cut(8) == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]
    assert cut(9) == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [4, 5, 6, 7, 8]]
    assert cut(11) == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]
    assert cut(5) == [[0, 1, 2, 3, 4]]
    assert cut(3) == [[0, 1, 2]]
    assert cut(7, 5, 4) == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]


def test_images_stream_through():
    alive = []

    def watched():
        for frame in images(60):
            alive[:] = [one for one in alive if one() is not None]
            assert len(alive) <= 5 + 4 * 5 + 1  # this window's, and four windows that are kept in memory
            image = frame.image.copy()
            alive.append(weakref.ref(image))
            yield SequenceFrame(frame.stamp, image)

    with WindowStore(None, {}) as store:
        assert len(run_windows(watched(), Counting(), store, WindowOptions(5, 2))) == 20
        assert len(list(store.folder.glob("*.npz"))) == 20
        assert len(store._recent) == 4
        folder = store.folder
    assert not folder.exists()


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    first, second = Counting(), Counting()

    def stop(progress):
        return progress.step < 11

    with WindowStore(tmp_path, {"model": "a", "size": [1, 2]}) as store, pytest.raises(CancelledError):
        run_windows(images(20), first, store, WindowOptions(5, 2), monitor=JobMonitor(stop))
    assert len(first.calls) == 3
    with WindowStore(tmp_path, {"model": "a", "size": (1, 2)}) as store:
        names = run_windows(images(20), second, store, WindowOptions(5, 2))
        assert len(names) == 6
        assert len(second.calls) == 3
        np.testing.assert_array_equal(store.get(names[0]).colors[:, 0, 0, 0], range(5))


def test_damaged_files_and_other_images_are_predicted_again(tmp_path):
    model = Counting()
    with WindowStore(tmp_path, {}) as store:
        names = run_windows(images(11), model, store, WindowOptions(5, 2))
    path = tmp_path / f"{names[1]}.npz"
    path.write_bytes(path.read_bytes()[:200])
    model.calls.clear()
    with WindowStore(tmp_path, {}) as store:
        run_windows(images(11), model, store, WindowOptions(5, 2))
        assert model.calls == [[3, 4, 5, 6, 7]]
    model.calls.clear()

    def changed():
        for frame in images(11):
            yield SequenceFrame(frame.stamp, frame.image + 1) if frame.stamp == 10 else frame

    with WindowStore(tmp_path, {}) as store:
        run_windows(changed(), model, store, WindowOptions(5, 2))
        assert model.calls == [[6, 7, 8, 9, 11]]


def test_windows_of_another_run_are_refused_and_those_of_no_known_run_removed(tmp_path):
    with WindowStore(tmp_path, {"model": "a"}) as store:
        run_windows(images(3), Counting(), store)
    with pytest.raises(InputError, match=r"another run \(format 1, model a\), this one has format 1, model b"):
        WindowStore(tmp_path, {"model": "b"})
    (tmp_path / "windows.json").write_text("[1]")
    with pytest.raises(InputError, match="another run"):
        WindowStore(tmp_path, {"model": "a"})
    (tmp_path / "windows.json").write_text("{broken")
    WindowStore(tmp_path, {"model": "b"}).close()
    assert not list(tmp_path.glob("*.npz"))
    assert json.loads((tmp_path / "windows.json").read_text())["model"] == "b"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        WindowStore(tmp_path / "file" / "inside", {})


def test_windows_are_kept_compact_and_clean():
    model = PretendVggt(building(1), round_trip(2)[:3])

    class Broken:
        name = "broken"

        def __call__(self, pixels):
            found = model(pixels)
            found.depth[0, 0, :4] = np.nan, -1, np.inf, 1e6
            found.confidence[0, 1, :3] = np.nan, np.inf, -2
            return found

    with WindowStore(None, {}) as store:
        (name,) = run_windows(model.frames(), Broken(), store)
        store._recent.clear()
        window = store.get(name)
    assert window.depth.dtype == window.confidence.dtype == np.float16
    np.testing.assert_array_equal(window.depth[0, 0, :4], 0)
    np.testing.assert_array_equal(window.confidence[0, 1, :3], [0, 65504, 0])
    np.testing.assert_allclose(np.linalg.norm(window.features, axis=1), 1, rtol=1e-6)
    assert (window.depth[1:] > 0).all()
    assert len(window) == 3
    with pytest.raises(InputError, match="frame 7 is not in the window of frames 0 to 2"):
        window.at(7)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", np.ones((2, 3, 3)), "predicted depth must be"),
        ("T_window_cam", np.zeros((3, 4, 4)), "not a rigid transform"),
        ("intrinsics", np.full((3, 3, 3), np.nan), "finite intrinsics"),
        ("features", np.ones((2, 4)), "as many predicted poses, features"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused(field, value, message):
    class Wrong(Counting):
        def __call__(self, pixels):
            found = super().__call__(pixels)
            object.__setattr__(found, field, value)
            return found

    with WindowStore(None, {}) as store, pytest.raises(InputError, match=message):
        run_windows(images(3), Wrong(), store)


def test_frames_that_cannot_be_used_are_refused():
    with WindowStore(None, {}) as store:
        with pytest.raises(InputError, match="no frame"):
            run_windows([], Counting(), store)
        with pytest.raises(InputError, match=r"frame 0 must be uint8"):
            run_windows([SequenceFrame(0, np.zeros((2, 2, 3)))], Counting(), store)
        wrong = [*images(1), SequenceFrame(1, np.zeros((9, 9, 3), dtype=np.uint8))]
        with pytest.raises(InputError, match=r"frame 1 has size \[9, 9\], those before have \[6, 8\]"):
            run_windows(wrong, Counting(), store)
    with pytest.raises(InputError, match="can share 1 to 4"):
        WindowOptions(5, 5)
