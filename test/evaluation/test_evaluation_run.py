"""Going through clips: perfect predictions, spoilt ones, missing truth, order and batches."""

import math
from dataclasses import replace

import pytest
import torch
from true_scenes import Oracle, RoomScenes, shifted, true_geometry, true_scene

from gen3r_core.conditioning import Task
from gen3r_core.errors import InputError
from gen3r_core.evaluation.measure import FIGURES, geometry_figures, image_figures, predicted_clouds
from gen3r_core.evaluation.run import evaluate
from gen3r_core.geometry.rigid import compose
from gen3r_core.progress import Progress

CPU = torch.device("cpu")
PERFECT = {
    "psnr_middle": 100, "psnr_unknown": 100, "ssim_unknown": 1, "absrel": 0, "delta125": 1, "auc30": 1,
    "rotation_deg": 0, "translation_deg": 0, "ate": 0, "accuracy": 0, "completeness": 0, "chamfer": 0,
}  # fmt: skip
IMAGES = {"psnr_middle", "psnr_unknown", "ssim_unknown"}


def figures_of(scenes, model, **options):
    return list(evaluate(scenes, model, device=CPU, **options))


@pytest.mark.parametrize("task", [None, Task.ONE_VIEW, Task.TWO_VIEW, Task.ALL_VIEW])
def test_the_truth_has_perfect_figures(task):
    """In another unit, and with the first camera as world, as networks have it."""
    results = figures_of(RoomScenes(2), Oracle(task))
    assert [result.name for result in results] == ["room_0", "room_1"]
    for result in results:
        assert tuple(result.figures) == FIGURES
        assert result.figures == pytest.approx(PERFECT, abs=0.05)
        assert result.figures["ate"] < 1e-5
        assert result.figures["chamfer"] < 1e-4
        assert result.figures["absrel"] < 1e-6
        geometric = {name: value for name, value in PERFECT.items() if name not in IMAGES}
        assert result.baselines["vggt"] == pytest.approx(geometric, abs=0.05)
        assert (result.seconds, result.baseline_seconds) == (0.5, {"vggt": 0.25})
    expected = {Task.ONE_VIEW: {"nearest"}, Task.TWO_VIEW: {"nearest", "crossfade"}}.get(task, set())
    assert set(results[0].baselines) == expected | {"vggt"}


def test_baselines_of_still_and_of_fading_clips():
    """A clip that brightens evenly is its own cross-fade, and its first frame is off by known amounts."""
    scene = true_scene(0)
    ramp = torch.linspace(0.2, 0.6, 5).view(5, 1, 1, 1).expand(5, 3, 28, 28).contiguous()

    class Ramp(RoomScenes):
        def load(self, rows, device):
            return [replace(scene, colors=ramp)]

    (two,) = figures_of(Ramp(1), Oracle(Task.TWO_VIEW))
    assert two.baselines["crossfade"]["psnr_middle"] > 90
    # Frames 1, 2, 3: the nearest known is 0.1, 0.2 and 0.1 away.
    assert two.baselines["nearest"]["psnr_unknown"] == pytest.approx((20 + 13.979 + 20) / 3, abs=1e-3)
    (one,) = figures_of(Ramp(1), Oracle(Task.ONE_VIEW))
    assert set(one.baselines) == {"nearest", "vggt"}
    assert one.baselines["nearest"]["psnr_unknown"] == pytest.approx((20 + 13.979 + 10.458 + 7.959) / 4, abs=1e-3)
    assert one.baselines["nearest"]["psnr_middle"] == pytest.approx((20 + 13.979 + 10.458) / 3, abs=1e-3)


def test_figures_of_pictures_are_means_over_their_own_frames():
    truth = torch.full((9, 3, 12, 12), 0.5)
    off = torch.tensor([0.3, 0.1, 0.1, 0.01, 0.01, 0.01, 0.1, 0.1, 0.3]).view(9, 1, 1, 1)
    two = image_figures(truth + off, truth, Task.TWO_VIEW)
    assert two["psnr_middle"] == pytest.approx(40, abs=1e-2)
    assert two["psnr_unknown"] == pytest.approx((4 * 20 + 3 * 40) / 7, abs=1e-2)
    one = image_figures(truth + off, truth, Task.ONE_VIEW)
    assert one["psnr_unknown"] == pytest.approx((4 * 20 + 3 * 40 + 10.458) / 8, abs=1e-2)
    assert image_figures(truth + off, truth, None)["psnr_unknown"] == pytest.approx(
        (7 * two["psnr_unknown"] + 2 * 10.458) / 9, abs=1e-2
    )
    assert image_figures(truth[:1], truth[:1], Task.ONE_VIEW) == {}
    assert 0 < two["ssim_unknown"] <= 1


def test_spoilt_geometry():
    """Known errors come out: a constant offset of depth, a turned camera, a bent path."""
    scene = true_scene(0)
    right = true_geometry(scene, moved=False)
    worse = replace(right, depth=right.depth * torch.tensor([1, 1, 1, 1, 1.5]).view(5, 1, 1))
    assert geometry_figures(worse, scene)["absrel"] == pytest.approx(0.1, rel=1e-4)
    assert geometry_figures(worse, scene)["delta125"] == pytest.approx(0.8)
    angle = math.radians(10)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    T = right.T_cam_world.clone()
    T[4] = compose(turn, T[4])
    turned = geometry_figures(replace(right, T_cam_world=T), scene)
    assert turned["rotation_deg"] == pytest.approx(10 * 4 / 10, abs=0.02)  # 4 of 10 pairs
    assert turned["auc30"] < 1
    assert turned["ate"] < 1e-4  # the camera's place is the same
    away = right.T_cam_world.clone()
    away[2, 0, 3] += 0.5
    assert geometry_figures(replace(right, T_cam_world=away), scene)["ate"] > 0.05


def test_clouds_are_compared_in_metres_and_in_the_scenes_world():
    scene = true_scene(0, size=(56, 56))
    predicted, truth = predicted_clouds([true_geometry(scene, unit=3.0)], scene)
    torch.testing.assert_close(torch.from_numpy(predicted[0]), torch.from_numpy(truth), atol=1e-4, rtol=0)
    walls = torch.tensor([[-2.0, -1.5, -2.0], [2.0, 1.5, 3.0]], dtype=torch.float64)
    points = torch.from_numpy(truth)
    assert torch.minimum((points - walls[0]).abs(), (points - walls[1]).abs()).amin(dim=1).max() < 1e-4


def test_what_is_not_known_is_left_out():
    bare = figures_of(RoomScenes(1, depth=False, cameras=False), Oracle())[0]
    assert bare.figures == pytest.approx({"psnr_middle": 100, "psnr_unknown": 100, "ssim_unknown": 1})
    scene = true_scene(0)
    geometry = true_geometry(scene)
    assert set(geometry_figures(geometry, replace(scene, depth=None))) == {
        "auc30",
        "rotation_deg",
        "translation_deg",
        "ate",
    }
    assert set(geometry_figures(geometry, replace(scene, T_world_cam=None))) == {"absrel", "delta125"}
    assert "absrel" not in geometry_figures(geometry, replace(scene, depth=torch.zeros_like(scene.depth)))
    for lacking in ({"depth": None}, {"T_world_cam": None}, {"intrinsics": None}, {"depth": 0 * scene.depth}):
        assert predicted_clouds([geometry], replace(scene, **lacking)) is None
    single = true_scene(0, frames=1)
    figures = geometry_figures(true_geometry(single), single)
    assert (figures["auc30"], figures["ate"]) == (None, None)


def test_predictions_that_are_not_finite_are_nan_and_not_an_error():
    def spoil(prediction):
        geometry = prediction.geometry
        broken = replace(
            geometry,
            depth=geometry.depth * math.nan,
            points=geometry.points * math.inf,
            T_cam_world=geometry.T_cam_world * math.nan,
        )
        return replace(prediction, geometry=broken, colors=prediction.colors * math.nan)

    (result,) = figures_of(RoomScenes(1), Oracle(spoil=spoil))
    assert all(math.isnan(result.figures[name]) for name in FIGURES)
    assert result.baselines["vggt"]["chamfer"] < 1e-4


def test_batches_warm_up_once_and_cover_all_clips():
    scenes, model, shown = RoomScenes(5), Oracle(Task.ONE_VIEW, shifted), []
    results = figures_of(
        scenes, model, batch_size=2, show=lambda *seen: shown.append([one.name for one in (seen[0], seen[2])])
    )
    assert [result.name for result in results] == [f"room_{row}" for row in range(5)]
    assert scenes.loaded == [[0, 1], [2, 3], [4]]
    assert model.calls == [(True, [0, 1]), (False, [0, 1]), (False, [2, 3]), (False, [4])]
    assert shown == [[f"room_{row}"] * 2 for row in range(5)]
    assert all(result.figures["psnr_unknown"] == pytest.approx(20, abs=1e-3) for result in results)


def test_progress_tells_of_clips_and_of_steps():
    told = []

    class Slow(Oracle):
        def predict(self, scenes, *, warm_up=False, callback=None):
            callback(Progress("denoise", 1, 2))
            return super().predict(scenes)

    figures_of(RoomScenes(2, depth=False), Slow(), callback=lambda progress: told.append(progress.stage))
    assert told == ["clips", "denoise", "denoise", "clips", "denoise"]


def test_other_processes_compare_clouds_alike():
    here = figures_of(RoomScenes(4, size=(14, 14)), Oracle())
    there = figures_of(RoomScenes(4, size=(14, 14)), Oracle(), workers=1)
    assert [result.name for result in there] == [result.name for result in here]
    assert [result.figures["chamfer"] for result in there] == [result.figures["chamfer"] for result in here]
    assert there[0].baselines["vggt"]["accuracy"] == here[0].baselines["vggt"]["accuracy"]


def test_options_that_make_no_sense():
    for options in ({"batch_size": 0}, {"workers": -1}):
        with pytest.raises(InputError, match="an evaluation needs batches of at least one clip"):
            figures_of(RoomScenes(1), Oracle(), **options)
