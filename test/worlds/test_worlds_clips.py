import math

import numpy as np
import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.scene import CameraPath
from gen3r_core.worlds.clips import make_clip, plan_clip, render_clips, split_clips
from gen3r_core.worlds.intersection import signed_distance
from gen3r_core.worlds.packing import CAPACITIES, FULL_CAPACITY, Capacity, pack_worlds
from gen3r_core.worlds.pictures import beside_depth, contact_sheet, floor_plan, stack_sheets, to_bytes
from gen3r_core.worlds.solids import box, cylinder, ellipsoid
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.surfaces import _Geometry, sample_surface


@pytest.fixture(scope="module")
def clip():
    return make_clip("test", 3, 4, (16, 24), path_kind="robot")


def test_a_clip_has_its_parts(clip):
    assert len(clip) == 4
    assert clip.image_size == (16, 24)
    assert clip.colors.shape == (4, 16, 24, 3)
    assert clip.depth.shape == (4, 16, 24)
    assert clip.colors.dtype == clip.depth.dtype == clip.intrinsics.dtype == clip.T_world_cam.dtype == torch.float32
    assert clip.seed == world_seed("test", 3)
    assert clip.kind == "robot"
    assert clip.caption
    path = clip.camera_path(metres_per_unit=2.0)
    assert isinstance(path, CameraPath)
    assert path.image_size == (16, 24)
    assert path.metres_per_unit == 2.0


def test_clips_are_drawn_from_their_split_and_index_alone(clip):
    again = make_clip("test", 3, 4, (16, 24), path_kind="robot")
    for name in ("colors", "depth", "intrinsics", "T_world_cam"):
        assert torch.equal(getattr(clip, name), getattr(again, name))
    assert again.caption == clip.caption
    others = [
        make_clip("val", 3, 4, (16, 24), path_kind="robot"),
        make_clip("test", 4, 4, (16, 24), path_kind="robot"),
        make_clip("test", 3, 4, (16, 24), path_kind="robot", variant=1),
    ]
    for other in others:
        assert not torch.allclose(clip.colors, other.colors)
    assert others[2].seed == clip.seed


def test_kinds_can_be_chosen_and_are_drawn_else():
    plan = plan_clip("train", 0, 2, (8, 8), world_kind="corridor", path_kind="hand")
    assert plan.world.kind == "corridor"
    assert plan.path.kind == "hand"
    drawn = [plan_clip("train", index, 1, (8, 8)) for index in range(24)]
    assert {plan.path.kind for plan in drawn} == {"robot", "drone", "hand"}
    assert {plan.world.kind for plan in drawn} == {"room", "corridor", "rooms"}


def test_a_batch_is_its_clips():
    plans = [plan_clip("train", index, 2, (8, 12), capacity=FULL_CAPACITY) for index in (1, 2)]
    together = split_clips(plans, render_clips(plans))
    for plan, clip in zip(plans, together, strict=True):
        alone = split_clips([plan], render_clips([plan]))[0]
        torch.testing.assert_close(alone.colors, clip.colors, atol=2e-6, rtol=0)
        assert alone.caption == clip.caption == plan.caption


def test_a_clip_is_filled_up_to_the_first_capacity_that_fits():
    found = {plan_clip("train", index, 1, (8, 8), capacities=CAPACITIES).packed.solids.counts for index in range(12)}
    assert found == {capacity.solids for capacity in CAPACITIES}
    with pytest.raises(InputError, match="solids, and only 1 fit"):
        plan_clip("train", 4, 1, (8, 8), capacity=Capacity((1, 1, 1), 1))
    with pytest.raises(InputError, match="solids, and only 2 fit"):
        plan_clip("train", 4, 1, (8, 8), capacities=[Capacity((1, 1, 1), 1), Capacity((2, 2, 2), 2)])


def test_clips_that_are_no_batch():
    plans = [plan_clip("train", 1, frames, (8, 8), capacity=FULL_CAPACITY) for frames in (1, 2)]
    with pytest.raises(InputError, match="clips of one batch have one length and size"):
        render_clips(plans)
    with pytest.raises(InputError, match="there is no clip to render"):
        render_clips([])


# --- surface samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 4])
def test_surface_samples_lie_on_surfaces_that_can_be_seen(world_of, seed):
    world = world_of(seed)
    cloud = sample_surface(world, 3000)
    assert len(cloud) == 3000
    packed = pack_worlds([world], dtype=torch.float64)
    distance = signed_distance(packed.solids, torch.from_numpy(cloud.points)[None, :, None])[0, :, 0]
    assert float(distance.abs().max()) < 1e-3
    assert float(distance.abs().median()) < 1e-6
    x0, y0, x1, y1 = world.plan.bounds
    assert (cloud.points[:, :2] >= (x0, y0)).all()
    assert (cloud.points[:, :2] <= (x1, y1)).all()
    assert cloud.points[:, 2].min() >= -1e-6
    assert cloud.points[:, 2].max() <= max(room.height for room in world.rooms) + 1e-6
    assert 0.1 < cloud.colors.mean() < 0.9
    np.testing.assert_array_equal(cloud.points, sample_surface(world, 3000).points)
    assert not np.array_equal(cloud.points, sample_surface(world, 3000, seed=1).points)


def test_rendered_points_are_near_samples(world_of):
    from scipy.spatial import cKDTree

    from gen3r_core.geometry.rigid import invert_rigid
    from gen3r_core.geometry.unprojection import unproject_depth

    clip = make_clip("train", 2, 2, (12, 12))
    K = clip.intrinsics - torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    points = unproject_depth(clip.depth, invert_rigid(clip.T_world_cam), K).reshape(-1, 3).numpy()
    cloud = sample_surface(world_of(2), 40000)
    assert np.median(cKDTree(cloud.points).query(points)[0]) < 0.05


def test_samples_are_even_by_area(bare_world, white):
    solids = [
        box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0), white),
        cylinder((5.0, 5.0, 2.0), 0.5, 4.0, white),
        ellipsoid((-5.0, -5.0, 2.0), (1.0, 1.0, 1.0), white),
        ellipsoid((-5.0, 5.0, 2.0), (0.3, 0.3, 1.5), white),
    ]
    geometry = _Geometry(pack_worlds([bare_world(solids)]))
    points, normals, index = geometry.draw(60000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    on_block = points[index == 0]
    top = on_block[:, 2] > 3 - 1e-6
    assert top.mean() == pytest.approx(2 / 22, abs=0.01)
    on_drum = points[index == 1]
    cap = np.abs(on_drum[:, 2] - 2) > 2 - 1e-6
    assert cap.mean() == pytest.approx(0.5 / (0.5 + 4), abs=0.01)
    assert len(on_drum) / len(on_block) == pytest.approx(2 * math.pi * 0.5 * 4.5 / 22, rel=0.05)
    ball = points[index == 2] - (-5, -5, 2)
    np.testing.assert_allclose(np.linalg.norm(ball, axis=1), 1, atol=1e-6)
    assert ball[:, 2].std() == pytest.approx(math.sqrt(1 / 3), abs=0.02)  # Archimedes: uniform in z
    long = points[index == 3] - (-5, 5, 2)
    fine = np.linspace(-1, 1, 200001)
    weight = np.sqrt(1.5**2 * (1 - fine**2) + 0.3**2 * fine**2)  # area of a prolate spheroid per z / 1.5
    expected = np.sqrt((weight * fine**2).sum() / weight.sum()) * 1.5
    assert long[:, 2].std() == pytest.approx(expected, rel=0.03)


def test_a_cloud_of_nothing(world_of):
    with pytest.raises(InputError, match="a cloud needs at least one point, got 0"):
        sample_surface(world_of(2), 0)


# --- pictures --------------------------------------------------------------------------------------------


def test_pictures_of_a_clip(clip):
    both = beside_depth(clip)
    assert both.shape == (4, 16, 48, 3)
    np.testing.assert_array_equal(both[:, :, :24], to_bytes(clip))
    assert np.abs(to_bytes(clip) / 255 - clip.colors.numpy()).max() <= 0.5 / 255 + 1e-6
    sheet = contact_sheet(clip, columns=3)
    assert sheet.shape == (32, 72, 3)
    np.testing.assert_array_equal(sheet[:16, :24], both[0, :, :24])
    np.testing.assert_array_equal(sheet[16:, 48:], both[3, :, 24:])
    stacked = stack_sheets([sheet, contact_sheet(clip, columns=2)])
    assert stacked.shape == (64, 72, 3)
    assert (stacked[32:, 48:] == 255).all()
    with pytest.raises(InputError, match="there is no picture to stack"):
        stack_sheets([])


def test_a_floor_plan_shows_walls_furniture_and_the_path(world_of):
    world = world_of(4)
    empty = floor_plan(world)
    x0, y0, x1, y1 = world.plan.bounds
    assert empty.shape[:2] == (math.ceil((y1 - y0 + 0.6) * 60), math.ceil((x1 - x0 + 0.6) * 60))

    def pixel(x, y):
        return empty[int((y1 + 0.3 - y) * 60), int((x - x0 + 0.3) * 60)].tolist()

    assert pixel(x0 + 0.02, (y0 + y1) / 2) == [60, 60, 65]
    assert pixel(x0 - 0.1, y1 - 1.5) == [250, 250, 250]
    placed = world.placed[0]
    assert pixel(*placed.center) not in ([60, 60, 65], [226, 220, 208])
    drawn = floor_plan(world, np.array([[1.0, 1.0, 0.5], [1.5, 1.0, 0.5]]))
    red = (drawn == (200, 30, 40)).all(axis=-1)
    green = (drawn == (30, 140, 60)).all(axis=-1)
    assert green.sum() > red.sum() > 10
