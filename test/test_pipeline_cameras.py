"""Camera paths through the pipeline: free, built in, from files, in metres."""

import json

import pytest
import torch
from lively import assert_scenes_close, lively_pipeline

from gen3r_core.conditioning import LatentShape, Task
from gen3r_core.errors import InputError
from gen3r_core.geometry.trajectories import BUILT_IN_PATHS, built_in_path
from gen3r_core.io.cameras import read_cameras, write_gen3r_cameras, write_transforms
from gen3r_core.jobs import Job, Sampling
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.pipeline import SCENE_SCALE
from gen3r_core.scene import CameraPath

QUICK = Sampling(steps=1, size=(112, 112), point_map=True)
SHAPE = LatentShape(5, 112, 112)
IMAGES = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pipeline():
    """Shared by tests: put back what you change."""
    return lively_pipeline()


@pytest.fixture(scope="module")
def free(pipeline):
    return generate(pipeline, "free")


def generate(pipeline, cameras, **values):
    return pipeline.generate(
        Job(**{"images": IMAGES, "task": Task.TWO_VIEW, "prompt": "", "cameras": cameras} | values), QUICK
    )


def path(frames=5, metres_per_unit=None, scale=1.0):
    poses = built_in_path("arc_left", frames).double()
    poses[:, :3, 3] = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None] * torch.tensor([0.3, -0.1, 0.5])
    poses[:, :3, 3] *= scale
    K = torch.tensor([[500.0, 0, 280], [0, 510, 275], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    return CameraPath(poses, K, (560, 560), metres_per_unit)


def given_rays(pipeline, cameras):
    with torch.no_grad():
        return pipeline.rays(cameras, IMAGES, SHAPE)


def test_free_cameras_are_zeros_that_still_pass_the_adapter(pipeline, free):
    assert not given_rays(pipeline, "free").any()
    seen = []
    hook = pipeline.transformer.camera_adapter.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    try:
        generate(pipeline, "free")
    finally:
        hook.remove()
    (rays, tokens), = seen  # fmt: skip
    assert not rays.any()
    assert tokens.abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in BUILT_IN_PATHS if name != "free"])
def test_built_in_paths(pipeline, name):
    """Intrinsics of the first image and scale from VGGT, on all of the job's images."""
    with torch.no_grad():
        found = pipeline.built_in_cameras(name, IMAGES, SHAPE)
        prediction = pipeline.vggt(IMAGES[None])
    scale = SCENE_SCALE * float(prediction.depth.median())
    torch.testing.assert_close(found.T_world_cam, built_in_path(name, 5, scale))
    assert found.image_size == SHAPE.size
    fov = prediction.pose_encoding[0, 0, 7:]
    focal = torch.tensor([112.0, 112.0]) / 2 / (fov / 2).tan()
    for K in found.intrinsics:
        torch.testing.assert_close(torch.stack((K[1, 1], K[0, 0])), focal, rtol=1e-4, atol=1e-4)
    rays = given_rays(pipeline, name)
    torch.testing.assert_close(rays, given_rays(pipeline, found))
    assert (rays[-1] - rays[0]).abs().max() > 0.1


def test_a_built_in_path_changes_the_scene(pipeline, free):
    scene = generate(pipeline, "zoom_in")
    assert (scene.depth - free.depth).abs().max() > 0.01
    assert scene.metres_per_unit is None


def test_fields_of_view_that_cannot_be_are_made_plausible(pipeline):
    """The head's last activation may say 0."""
    bias = pipeline.vggt.camera_head.pose_branch.fc2.bias
    before = bias.clone()
    try:
        bias.data[7:] = -100.0
        found = pipeline.built_in_cameras("zoom_in", IMAGES, SHAPE)
        scene = pipeline.reconstruct(IMAGES)
    finally:
        bias.data.copy_(before)
    for intrinsics in (found.intrinsics, scene.intrinsics):
        assert torch.isfinite(intrinsics).all()
        assert (intrinsics[:, 0, 0] > 0).all()
    assert torch.isfinite(scene.points).all()


def test_a_path_in_metres_equals_the_path_divided_by_hand(pipeline):
    by_hand = generate(pipeline, path(scale=1 / 2.5))
    in_metres = generate(pipeline, path(metres_per_unit=2.5))
    assert_scenes_close(in_metres, by_hand, 1e-4)
    assert (generate(pipeline, path()).depth - by_hand.depth).abs().max() > 1e-3
    assert in_metres.metres_per_unit == 2.5
    assert by_hand.metres_per_unit is None


def test_only_poses_relative_to_the_first_camera_matter(pipeline):
    moved = path()
    world = path(9).T_world_cam[6]
    torch.testing.assert_close(
        given_rays(pipeline, CameraPath(world @ moved.T_world_cam, moved.intrinsics, moved.image_size)),
        given_rays(pipeline, moved),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_longer_path_is_thinned(pipeline):
    rays = given_rays(pipeline, path(5))
    longer = path(9)
    thinned = CameraPath(longer.T_world_cam[::2], longer.intrinsics[::2], longer.image_size)
    assert_scenes_close(generate(pipeline, longer), generate(pipeline, thinned))
    assert rays.shape == (5, 6, 112, 112)


@pytest.mark.parametrize("kind", ["cameras", "transforms"])
def test_paths_from_files(pipeline, tmp_path, kind):
    wanted = path()
    file = tmp_path / f"{kind}.json"
    if kind == "cameras":
        write_gen3r_cameras(file, torch.linalg.inv(wanted.T_world_cam), wanted.intrinsics)
    else:
        write_transforms(file, wanted.T_world_cam, wanted.intrinsics, wanted.image_size, [f"{i}.png" for i in range(5)])
    torch.testing.assert_close(
        given_rays(pipeline, read_cameras(file)), given_rays(pipeline, wanted), rtol=1e-4, atol=1e-5
    )
    assert json.loads(file.read_text())


def test_each_job_of_a_batch_has_its_own_scale(pipeline):
    jobs = [Job(IMAGES, Task.TWO_VIEW, "", cameras) for cameras in (path(metres_per_unit=3.0), "free", path())]
    assert [scene.metres_per_unit for scene in pipeline.generate_batch(jobs, QUICK)] == [3.0, None, None]


def test_allview_takes_no_cameras(pipeline):
    images = IMAGES[[0, 1, 0, 1, 0]]
    usual = generate(pipeline, "free", images=images, task=Task.ALL_VIEW)
    for cameras in (path(7, metres_per_unit=2.0), "nonsense"):
        scene = generate(pipeline, cameras, images=images, task=Task.ALL_VIEW)
        assert torch.equal(scene.depth, usual.depth)
        assert scene.metres_per_unit is None


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ("orbit", "camera path 'orbit' is unknown; choose one of: zoom_in, zoom_out, arc_left"),
        (path(6), "the camera path has 6 cameras but the job has 5 frames; give one camera a frame"),
        (path(3), "the camera path has 3 cameras but the job has 5 frames"),
    ],
    ids=["unknown", "uneven", "few"],
)
def test_cameras_that_cannot_be_used(pipeline, cameras, message):
    with pytest.raises(InputError, match=message):
        generate(pipeline, cameras)


def test_a_transformer_without_adapter_follows_no_cameras(pipeline, free):
    whole = pipeline.transformer
    config = {key: whole.config[key] for key in ("num_attention_heads", "attention_head_dim", "text_dim", "text_len",
                                                 "freq_dim", "ffn_dim", "num_layers", "image_dim")}  # fmt: skip
    pipeline.transformer = CameraTransformer(**config, camera_channels=None).eval()
    pipeline.transformer.load_state_dict(whole.state_dict(), strict=False)
    try:
        scene = generate(pipeline, "free")
        with pytest.raises(InputError, match="no camera adapter: it cannot follow 'zoom_in'; use 'free' cameras"):
            generate(pipeline, "zoom_in")
        with pytest.raises(InputError, match="no camera adapter: it cannot follow a camera path; use 'free' cameras"):
            generate(pipeline, path())
    finally:
        pipeline.transformer = whole
    # Zero rays are not nothing to the adapter: its biases are.
    assert (scene.depth - free.depth).abs().max() > 1e-3
