"""Reconstructions whose depth is fitted to poses that come with the request."""

import numpy as np
import pytest
import torch
from robot_drive import UNIT, Drive

from gen3r_core.errors import CancelledError, InputError
from gen3r_core.geometry.rigid import invert_rigid, relative_to_first
from gen3r_core.progress import JobMonitor
from gen3r_core.scene import Scene
from gen3r_core.serving.engine import anchor_scene, gather
from gen3r_core.serving.requests import CloudOptions, ReconstructRequest


@pytest.fixture(scope="module")
def drive():
    return Drive()


def scene_of(drive):
    """What a network would say, with cameras that it has wrong."""
    poses = relative_to_first(drive.T)
    poses[:, :3, 3] *= 0.3 / UNIT
    count = len(drive.depth)
    points = torch.zeros(*drive.depth.shape, 3)
    return Scene(
        colors=drive.images.permute(0, 2, 3, 1), depth=drive.depth, depth_confidence=torch.ones_like(drive.depth),
        points=points, point_map=None, point_map_confidence=None,
        valid=torch.ones_like(drive.depth, dtype=torch.bool), intrinsics=drive.K.float(),
        T_cam_world=invert_rigid(poses).float(), observed=torch.ones(count, dtype=torch.bool),
    )  # fmt: skip


def test_points_lie_where_they_are_in_the_first_camera(drive):
    scene = scene_of(drive)
    monitor = JobMonitor()
    found, why_not = anchor_scene(scene, drive.K.float(), drive.T, monitor)
    assert why_not == ""
    assert "align" in monitor.seconds
    arrays = gather(found, drive.K.float(), CloudOptions(), scene.T_world_cam)
    metres = found.metres_per_unit
    assert metres is not None
    known = relative_to_first(drive.T).numpy()
    np.testing.assert_allclose(arrays["T_world_cam"][:, :3, 3] * metres, known[:, :3, 3], atol=1e-4)
    np.testing.assert_allclose(arrays["predicted_T_world_cam"], scene.T_world_cam.numpy(), atol=1e-4)
    view = arrays["point_view"]
    in_camera = np.linalg.inv(known)[view] @ np.column_stack([arrays["points"] * metres, np.ones(len(view))])[..., None]
    x, y, z = in_camera[:, :3, 0].T
    K = drive.K[0].numpy()
    u, v = (np.floor(K[0, 0] * x / z + K[0, 2]).astype(int), np.floor(K[1, 1] * y / z + K[1, 2]).astype(int))
    true = drive.true.numpy()[view, v.clip(0, 95), u.clip(0, 127)]
    assert np.median(np.abs(z - true) / true) < 0.03
    assert len(view) < 0.9 * drive.depth.numel()  # what other views do not agree with is left out


def test_images_that_do_not_tell_leave_the_scene_as_it_was(drive):
    scene = scene_of(drive)
    still = drive.T[:1].repeat(len(drive.T), 1, 1)
    same, why_not = anchor_scene(scene, drive.K.float(), still, JobMonitor())
    assert same is scene
    assert "too little motion" in why_not


def test_it_can_be_cancelled(drive):
    monitor = JobMonitor(lambda told: told.stage != "align" or told.step < 2)
    with pytest.raises(CancelledError, match="align after step 2"):
        anchor_scene(scene_of(drive), drive.K.float(), drive.T, monitor)


def test_poses_of_a_request_are_checked():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="camera poses"):
        ReconstructRequest(images, T_world_cam=np.zeros((3, 4, 4)))
    K = np.repeat(np.eye(3)[None], 2, axis=0)
    poses = np.repeat(np.eye(4)[None], 2, axis=0)
    assert ReconstructRequest(images, K, T_world_cam=poses).anchored
    assert not ReconstructRequest(images, T_world_cam=poses).anchored
    assert ReconstructRequest(images, K).pace_key != ReconstructRequest(images, K, T_world_cam=poses).pace_key
