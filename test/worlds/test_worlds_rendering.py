"""Pictures: closed forms, agreement between frames, and that no fast way changes what is seen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.worlds.clips import plan_clip, render_clips
from gen3r_core.worlds.intersection import nearest_hit, signed_distance
from gen3r_core.worlds.lighting import Light
from gen3r_core.worlds.materials import Material
from gen3r_core.worlds.packing import FULL_CAPACITY, Capacity, capacity_of, pack_worlds, stack_worlds
from gen3r_core.worlds.rendering import _pieces, camera_rays, compiled_trace, render, trace_colors
from gen3r_core.worlds.shading import hits_at
from gen3r_core.worlds.solids import box, cylinder, ellipsoid

SEEDS = (0, 2, 5, 9)


def rays_of_plans(plans):
    poses = torch.from_numpy(np.stack([plan.path.T_world_cam for plan in plans]))
    return poses, torch.from_numpy(np.stack([plan.path.intrinsics for plan in plans]))


@pytest.fixture(scope="module")
def plans():
    return [plan_clip("test", index, 3, (24, 32), capacity=FULL_CAPACITY, speed=0.08) for index in SEEDS]


@pytest.fixture(scope="module")
def rendering(plans):
    return render_clips(plans)


def test_depth_of_a_wall_is_the_same_everywhere(bare_world, camera, looking, white):
    packed = pack_worlds([bare_world([box((3.0, -9.0, -9.0), (3.5, 9.0, 9.0), white)])])
    result = render(packed, looking((1.0, 0.0, 1.0), 0.0), camera((20, 30), 25.0), (20, 30), samples=1)
    torch.testing.assert_close(result.depth, torch.full_like(result.depth, 2.0))
    assert result.depth.shape == (1, 1, 20, 30)
    assert result.colors.shape == (1, 1, 20, 30, 3)
    assert bool((result.ids == 0).all())


def test_depth_of_a_ball_and_a_pole_at_known_pixels(bare_world, camera, looking, white):
    solids = [ellipsoid((4.0, 0.0, 1.0), (1.0, 1.0, 1.0), white), cylinder((4.0, 2.0, 1.0), 0.5, 4.0, white)]
    packed = pack_worlds([bare_world(solids)], dtype=torch.float64)
    size = (41, 41)
    result = render(packed, looking((0.0, 0.0, 1.0), 0.0), camera(size, 20.0), size, samples=1)
    depth, ids = result.depth[0, 0], result.ids[0, 0]
    assert float(depth[20, 20]) == pytest.approx(3.0)  # the middle pixel looks straight at the ball
    assert int(ids[20, 20]) == 0
    # Pixel column 12 looks to the left (+y) with slope 8/20: |t (1, 0.4) - (4, 2)| = 0.5.
    a, b, c = 1.16, -2 * (4 + 0.8), 16 + 4 - 0.25
    expected = (-b - (b * b - 4 * a * c) ** 0.5) / (2 * a)
    assert float(depth[20, 12]) == pytest.approx(expected)
    assert int(ids[20, 12]) == 1
    assert float(depth[0, 40]) == 0
    assert int(ids[0, 40]) == -1
    assert float(result.colors[0, 0, 0, 40].max()) == 0


def test_normals_point_outwards(bare_world, white):
    solids = [
        box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), white).moved(0.5, (0.0, 0.0, 0.0)),
        ellipsoid((5.0, 0.0, 0.0), (1.0, 0.5, 2.0), white),
        cylinder((0.0, 5.0, 0.0), 0.5, 2.0, white),
    ]
    packed = pack_worlds([bare_world(solids)], dtype=torch.float64)
    cases = [  # point on the surface, solid (boxes come first, then cylinders), normal
        ((np.cos(0.5), np.sin(0.5), 0.2), 0, (np.cos(0.5), np.sin(0.5), 0.0)),
        ((0.1, 0.1, 1.0), 0, (0.0, 0.0, 1.0)),
        ((0.5, 5.0, 0.3), 1, (1.0, 0.0, 0.0)),
        ((0.1, 5.1, -1.0), 1, (0.0, 0.0, -1.0)),
        ((5.0, 0.5, 0.0), 2, (0.0, 1.0, 0.0)),
        ((5.0 + 0.6, 0.0, 1.6), 2, np.array([0.6, 0.0, 0.4]) / np.hypot(0.6, 0.4)),
    ]
    points = torch.tensor(np.array([case[0] for case in cases]))[None, :, None]
    index = torch.tensor([case[1] for case in cases])[None, :, None]
    zero = torch.zeros(points.shape[:-1], dtype=torch.float64)
    hits = hits_at(packed, points, torch.ones_like(points), zero, index, zero)
    expected = torch.tensor(np.array([case[2] for case in cases]))[None, :, None]
    torch.testing.assert_close(hits.normals, expected)


def test_what_stands_in_the_light_makes_a_shadow(bare_world, camera, looking, white):
    floor = box((-9.0, -9.0, -0.1), (9.0, 9.0, 0.0), white)
    lid = box((-1.0, -1.0, 3.0), (1.0, 1.0, 3.1), white)
    light = Light((0.0, 0.0, 6.0), (30.0, 30.0, 30.0), 0.0, 0)
    pose = looking((-6.0, 0.0, 2.0), 0.0, -18.0)
    size = (40, 40)
    shots = [
        render(pack_worlds([bare_world(solids, [light])]), pose, camera(size, 40.0), size, samples=1)
        for solids in ([floor], [floor, lid])
    ]
    lit, shadowed = (shot.colors[0, 0].mean(dim=-1) for shot in shots)
    points = unproject_depth(
        shots[1].depth[0],
        invert_rigid(pose[0]),
        camera(size, 40.0)[0] - torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]),
    )[0]
    on_floor = (shots[1].ids[0, 0] == 0) & (shots[0].ids[0, 0] == 0)
    under = points[..., :2].abs().amax(dim=-1)
    # The lid is halfway: its shadow reaches to 1 m * 6 / (6 - 3.05) or so.
    dark, bright = on_floor & (under < 1.8), on_floor & (under > 2.4)
    assert int(dark.sum()) > 20
    assert int(bright.sum()) > 20
    assert float((shadowed[dark] / lit[dark]).max()) < 0.8
    torch.testing.assert_close(shadowed[bright], lit[bright], atol=1e-4, rtol=0)


def test_a_light_with_a_radius_has_soft_shadows(bare_world, camera, looking, white):
    solids = [box((-9.0, -9.0, -0.1), (9.0, 9.0, 0.0), white), box((-1.0, -1.0, 2.0), (1.0, 1.0, 2.1), white)]
    size = (32, 32)
    greys = []
    for radius in (0.0, 0.5):
        packed = pack_worlds([bare_world(solids, [Light((0.0, 0.0, 6.0), (30.0,) * 3, radius, 0)])])
        picture = render(packed, looking((0.1, 0.0, 1.9), 0.0, -89.0), camera(size, 16.0), size, samples=4).colors
        greys.append(len(torch.unique((picture[0, 0, :, :, 0] * 200).round())))
    assert greys[1] > greys[0] + 3


def test_corners_are_darker_than_open_walls(bare_world, camera, looking, white):
    solids = [box((3.0, -9.0, -9.0), (3.5, 9.0, 9.0), white), box((-9.0, 1.0, -9.0), (3.0, 1.5, 9.0), white)]
    packed = pack_worlds([bare_world(solids, [Light((0.0, 0.0, 0.0), (0.0,) * 3, 0.0, 0)])])
    row = render(packed, looking((0.0, 0.0, 0.0), 0.0), camera((1, 40), 30.0), (1, 40)).colors[0, 0, 0, :, 0]
    corner = int(row.argmin())
    assert 7 <= corner <= 12  # y = 1 at x = 3, a third of the focal length left of the middle
    assert float(row[corner]) < 0.9 * float(row[-1])


def test_highlights_follow_the_camera(bare_world, camera, looking):
    shiny = Material("plain", (0.2, 0.2, 0.2), (0.2, 0.2, 0.2), specular=0.6)
    matt = Material("plain", (0.2, 0.2, 0.2), (0.2, 0.2, 0.2))
    pictures = {}
    for name, material in (("shiny", shiny), ("matt", matt)):
        light = Light((0.0, 3.0, 3.0), (20.0, 20.0, 20.0), 0.0, 0)
        packed = pack_worlds([bare_world([ellipsoid((4.0, 0.0, 0.0), (1.0, 1.0, 1.0), material)], [light])])
        for y in (-1.5, 1.5):
            pose = looking((0.0, y, 0.0), -np.degrees(np.arctan2(y, 4.0)))
            pictures[name, y] = render(packed, pose, camera((24, 24), 30.0), (24, 24)).colors[0, 0]
    for y in (-1.5, 1.5):
        assert float((pictures["shiny", y] - pictures["matt", y]).max()) > 0.1
    brightest = [int(pictures["shiny", y].mean(dim=-1).argmax()) for y in (-1.5, 1.5)]
    assert brightest[0] != brightest[1]


def test_things_that_glow_need_no_light(bare_world, camera, looking):
    glow = Material("plain", (0.8, 0.6, 0.4), (0.8, 0.6, 0.4), emission=1.0)
    solids = [box((3.0, -9.0, -9.0), (3.5, 9.0, 9.0), glow)]
    packed = pack_worlds([bare_world(solids, [Light((0.0, 0.0, 0.0), (0.0,) * 3, 0.0, 0)], ambient=(0.0, 0.0, 0.0))])
    color = render(packed, looking((0.0, 0.0, 0.0), 0.0), camera((2, 2), 2.0), (2, 2)).colors[0, 0, 0, 0]
    expected = (1 - torch.exp(-torch.tensor([0.8, 0.6, 0.4]))) ** (1 / 2.2)
    torch.testing.assert_close(color, expected)


def test_samples_are_a_box_filter(bare_world, camera, looking):
    """Two by two samples a pixel are the mean of four pixels of a picture twice as large."""
    checker = Material("checker", (0.8, 0.7, 0.6), (0.1, 0.2, 0.3), (0.37, 0.29))
    solids = [box((3.0, -9.0, -9.0), (3.5, 9.0, 9.0), checker), ellipsoid((2.0, 0.3, 0.2), (0.4, 0.3, 0.5), checker)]
    packed = pack_worlds([bare_world(solids)])  # its light has no radius
    pose = looking((0.0, 0.0, 0.0), 12.0)
    small = render(packed, pose, camera((16, 24), 20.0), (16, 24), samples=2)
    large = render(packed, pose, camera((32, 48), 40.0), (32, 48), samples=1)
    mean = F.avg_pool2d(large.colors[0].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(small.colors[0], mean, atol=2e-5, rtol=0)
    assert (
        float(
            (small.colors[0] - render(packed, pose, camera((16, 24), 20.0), (16, 24), samples=1).colors[0]).abs().max()
        )
        > 0.05
    )


def test_depth_lies_on_the_surfaces(plans, rendering):
    """Unprojected with the library's own function, whose pixels are whole numbers: half a pixel is taken off."""
    half = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for row, plan in enumerate(plans):
        K = rendering.intrinsics[row] - half
        points = unproject_depth(rendering.depth[row], invert_rigid(rendering.T_world_cam[row]), K)
        distance = signed_distance(plan.packed.solids, points.reshape(1, -1, 1, 3))
        assert float(distance.abs().max()) < 1e-3
        ids = rendering.ids[row]
        assert bool((ids >= 0).all())
        assert bool((ids < len(plan.world.solids)).all())
        assert float(rendering.depth[row].flatten(1).median(dim=1).values.min()) > 0.3


def test_a_pixel_of_one_frame_is_on_the_same_surface_for_the_others(plans, rendering):
    """Unprojected and seen from another frame's camera, it is met by that ray, or something before it is."""
    half = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for row, plan in enumerate(plans):
        K, poses = rendering.intrinsics[row], rendering.T_world_cam[row]
        points = unproject_depth(rendering.depth[row, :1], invert_rigid(poses[:1]), K[:1] - half)[0].reshape(
            1, -1, 1, 3
        )
        ids = rendering.ids[row, 0].flatten()
        for frame in (1, 2):
            eye = poses[frame, :3, 3].expand(1, 1, 1, 3)
            distance, index = nearest_hit(plan.packed.solids, eye, points - eye)
            distance, index = distance.flatten(), plan.packed.source[0][index.flatten()]
            assert float(distance.max()) < 1 + 1e-4
            seen = distance > 1 - 1e-4
            assert int(seen.sum()) > 0.5 * len(seen)
            assert float((index == ids)[seen].double().mean()) > 0.98


def test_frames_agree_about_depth_where_both_see(plans, rendering):
    """A frame warped by its depth into the next has that frame's depth, to the nearest pixel."""
    half = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for row in range(len(plans)):
        K, poses, depth = rendering.intrinsics[row], rendering.T_world_cam[row], rendering.depth[row]
        T_cam_world = invert_rigid(poses)
        points = unproject_depth(depth[:1], T_cam_world[:1], K[:1] - half)[0].reshape(-1, 3)
        local = points @ T_cam_world[1, :3, :3].T + T_cam_world[1, :3, 3]
        pixel = (local[:, :2] / local[:, 2:] * K[1, 0, 0] + K[1, :2, 2] - 0.5).round().long()
        height, width = depth.shape[1:]
        inside = (local[:, 2] > 0.1) & (pixel >= 0).all(dim=1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        u, v = pixel[inside].T
        same = rendering.ids[row, 0].flatten()[inside] == rendering.ids[row, 1][v, u]
        error = ((depth[1][v, u] - local[inside, 2]).abs() / local[inside, 2])[same]
        assert int(same.sum()) > 0.5 * int(inside.sum())
        assert float(error.median()) < 0.02
        assert float(error.quantile(0.95)) < 0.1


def test_pictures_are_neither_dark_nor_burnt_out():
    plans = [plan_clip("val", index, 1, (16, 16)) for index in range(24)]
    means = []
    for plan in plans:
        colors = render_clips([plan], samples=1).colors
        means.append(float(colors.mean()))
        assert float(colors.max()) < 1
        assert float((colors > 0.99).float().mean()) < 0.05
        assert float((colors < 0.02).float().mean()) < 0.2
        assert float(colors.std()) > 0.02
    assert 0.35 < float(np.mean(means)) < 0.6
    assert min(means) > 0.15
    assert max(means) < 0.85


def test_the_same_again_and_alike_in_double_precision(plans, rendering):
    again = render_clips(plans)
    for name in ("colors", "depth", "ids"):
        assert torch.equal(getattr(rendering, name), getattr(again, name))
    packed = pack_worlds([plan.world for plan in plans], capacity=FULL_CAPACITY, dtype=torch.float64)
    exact = render(packed, *rays_of_plans(plans), (24, 32))
    assert exact.colors.dtype == torch.float64
    difference = (exact.colors - rendering.colors).abs()
    assert float((difference > 1e-3).double().mean()) < 2e-3  # an edge may fall to the other side of a ray
    assert float(difference.mean()) < 1e-4
    depth = ((exact.depth - rendering.depth).abs() / exact.depth > 1e-5).double().mean()
    assert float(depth) < 2e-3


@pytest.mark.parametrize("rays", [1, 700, 1 << 18])
def test_culling_and_chunks_change_nothing(plans, rendering, rays):
    part = plans[:2]
    packed = stack_worlds([plan.packed for plan in part])
    whole = render(packed, *rays_of_plans(part), (24, 32), cull=False, rays_at_once=rays)
    for name in ("colors", "depth"):
        torch.testing.assert_close(getattr(whole, name), getattr(rendering, name)[:2], atol=2e-6, rtol=0)
    assert torch.equal(whole.ids, rendering.ids[:2])


def test_fillers_are_never_seen(plans, rendering):
    tight = render_clips([plan_clip("test", SEEDS[0], 3, (24, 32), speed=0.08)])
    assert tight.colors.shape[0] == 1
    torch.testing.assert_close(tight.colors[0], rendering.colors[0], atol=2e-6, rtol=0)
    assert torch.equal(tight.ids[0], rendering.ids[0])


@pytest.mark.slow
def test_a_trace_can_be_compiled(plans):
    """Without breaks in the graph; with a backend that needs no compiler."""
    trace = compiled_trace(fullgraph=True, backend="eager")
    packed = plans[0].packed
    poses, K = rays_of_plans(plans[:1])
    compiled = render(packed, poses, K, (24, 32), trace=trace, samples=1)
    plain = render(packed, poses, K, (24, 32), trace=trace_colors, samples=1)
    torch.testing.assert_close(compiled.colors, plain.colors, atol=1e-6, rtol=0)


def test_rays_go_through_pixel_middles(camera, looking):
    K = camera((4, 6), 3.0)
    origins, directions, pixel = camera_rays(looking((1.0, 2.0, 3.0), 90.0), K, slice(1, 3), slice(0, 6), 1)
    assert directions.shape == (1, 1, 12, 1, 3)
    torch.testing.assert_close(origins.flatten(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    # Looking along +y: right is +x, down is -z. Row 1, column 0 is 2.5 pixels left of and 0.5 above the middle.
    torch.testing.assert_close(
        directions[0, 0, 0, 0], torch.tensor([-2.5 / 3, 1.0, 0.5 / 3], dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert float(pixel) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("count", "most"), [(17, 5), (17, 17), (17, 100), (4, 1), (224, 100)])
def test_pieces_are_alike_and_cover_everything(count, most):
    pieces = _pieces(count, most)
    assert len({piece.stop - piece.start for piece in pieces}) == 1
    assert set().union(*(range(piece.start, piece.stop) for piece in pieces)) == set(range(count))
    assert pieces[0].stop - pieces[0].start <= most


def test_what_cannot_be_rendered(plans, camera, looking):
    packed = plans[0].packed
    pose, K = looking((0.0, 0.0, 1.0), 0.0), camera((4, 4), 4.0)
    with pytest.raises(InputError, match=r"camera poses of 1 worlds must have shape \[1, F, 4, 4\], got \(1, 4, 4\)"):
        render(packed, pose[0], K, (4, 4))
    with pytest.raises(InputError, match=r"intrinsics must have shape \[1, 1, 3, 3\], got \(1, 2, 3, 3\)"):
        render(packed, pose, camera((4, 4), 4.0, 2), (4, 4))
    with pytest.raises(InputError, match="a rendering needs a positive size, samples"):
        render(packed, pose, K, (4, 0))
    with pytest.raises(InputError, match="renders without culling"):
        render(packed, pose, K, (4, 4), cull=True, trace=trace_colors)


def test_what_cannot_be_packed(plans):
    world = plans[0].world
    with pytest.raises(InputError, match="there is no world to pack"):
        pack_worlds([])
    with pytest.raises(InputError, match=r"box solids, and only 2 fit"):
        pack_worlds([world], capacity=Capacity((2, 99, 99), 9))
    with pytest.raises(InputError, match=r"lights, and only 0 fit"):
        pack_worlds([world], capacity=Capacity((199, 99, 99), 0))
    with pytest.raises(InputError, match="worlds of different capacities cannot be stacked"):
        stack_worlds([plans[0].packed, pack_worlds([world], capacity=capacity_of([world]))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gpu_shows_the_same(plans, rendering, compiled):
    trace = compiled_trace(fullgraph=True) if compiled else None
    result = render_clips(plans, device="cuda", trace=trace)
    difference = (result.colors.cpu() - rendering.colors).abs()
    assert float((difference > 1e-3).double().mean()) < 5e-3
    assert float(difference.mean()) < 2e-4
    assert float(((result.depth.cpu() - rendering.depth).abs() > 1e-4).double().mean()) < 5e-3
