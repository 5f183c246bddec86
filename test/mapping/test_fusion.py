import numpy as np
import pytest
from pretend_vggt import distance_to

from gen3r_core.errors import CancelledError, InputError
from gen3r_core.mapping.fusion import FusionOptions, fuse_mesh, fuse_voxels, placed_views
from gen3r_core.mapping.known import KnownPoses
from gen3r_core.mapping.sequence import place_windows
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.metric import fit_metric
from gen3r_core.reconstruction.voxel_map import VoxelMap


@pytest.fixture(scope="module")
def placed(short):
    return place_windows(short.store, short.names, known=KnownPoses(short.T))


def test_the_cloud_lies_on_the_walls(short, placed):
    voxels = VoxelMap(0.05)
    count = fuse_voxels(placed_views(short.store, short.names, placed), voxels)
    found = voxels.points()
    assert count > 10_000
    assert 2000 < len(found.points) < count
    errors = distance_to(short.boxes, found.points)
    assert np.median(errors) < 0.08  # four percent of depth
    # Outliers, a twentieth of all pixels, hang in the air where they are let in.
    everything = VoxelMap(0.05)
    careless = FusionOptions(quantile=0, edge=100, tolerance=100)
    fuse_voxels(placed_views(short.store, short.names, placed, careless), everything)
    off = distance_to(short.boxes, everything.points().points)
    assert (errors > 0.3).mean() < 0.3 * (off > 0.3).mean()


@pytest.mark.slow
def test_a_long_drive_becomes_one_cloud(drive):
    voxels = VoxelMap(0.05)
    fuse_voxels(placed_views(drive.store, drive.names, drive.known), voxels)
    back = fit_metric(drive.known.T_world_cam, drive.T, known_scale=1.0).world_from_model
    errors = distance_to(drive.boxes, back.apply(voxels.points().points))
    assert np.median(errors) < 0.08  # nine percent of depth is wrong in each frame, four metres away


def test_a_mesh_lies_on_the_walls(short, placed):
    views = placed_views(short.store, short.names, placed)
    mesh = fuse_mesh(views, 0.08)
    vertices = np.asarray(mesh.vertices)
    assert len(vertices) > 1000
    assert mesh.has_vertex_colors()
    assert mesh.has_vertex_normals()
    assert np.median(distance_to(short.boxes, vertices)) < 0.08
    assert len(fuse_mesh(iter(()), 0.1).vertices) == 0
    views = list(placed_views(short.store, short.names, placed))
    nothing = views[0]._replace(depth=np.zeros_like(views[0].depth))
    assert len(fuse_mesh(iter([nothing]), 0.1).vertices) == 0
    assert 0 < len(fuse_mesh(iter(views), 0.08, truncation=0.2, min_views=4).vertices) < len(vertices)


def test_each_frame_comes_once_with_its_pose(short, placed):
    views = list(placed_views(short.store, short.names, placed))
    assert sorted(view.frame for view in views) == list(range(40))
    for view in views[::7]:
        np.testing.assert_array_equal(view.T_world_cam, placed.T_world_cam[view.frame])
        true = short.model.true_depth(view.frame)
        seen = view.depth > 0
        assert seen.mean() > 0.3
        assert np.median(np.abs(view.depth[seen] / true[seen] - 1)) < 0.1
        near, far = (view.confidence[seen][true[seen] < 2], view.confidence[seen][true[seen] > 3])
        if len(near) and len(far):
            assert np.median(near) > np.median(far)


def test_windows_come_one_by_one_and_can_be_stopped(short, placed):
    views = placed_views(short.store, short.names, placed, monitor=JobMonitor(lambda p: p.step < 1))
    frames = [next(views).frame for _ in range(3)]
    assert frames == [0, 1, 2]
    with pytest.raises(CancelledError, match="fusion after step 1 of 3"):
        list(views)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="positive limits"):
        FusionOptions(edge=0)
    with pytest.raises(InputError, match="voxel size must be positive"):
        fuse_mesh(iter(()), 0)
