"""Encoded clips are what the pipeline makes of the same clips; the pool gives them out deterministically."""

from dataclasses import replace

import pytest
import torch
from room_clips import FLOW_TINY, RoomSource, room_batch, write_parts

from gen3r_core.conditioning import LatentShape, Task, camera_rays, control_latents, control_video, pack_cameras
from gen3r_core.errors import InputError
from gen3r_core.models.image_encoder import quantize_like_upstream
from gen3r_core.models.vggt.tokens import pack_tokens
from gen3r_core.models.video_vae import encode_video
from gen3r_core.scene import CameraPath
from gen3r_core.training import transformer
from gen3r_core.training.clip_pool import EncodedBatch, PooledClips
from gen3r_core.training.flow_clips import CONTROLLED, EncodedClips, clip_rays, text_embeddings
from gen3r_core.training.transformer import camera_tokens

SIZE = (112, 112)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def stage(parts):
    values = {"checkpoint": str(parts), "captions": str(parts / "captions.txt"), "clips_at_a_time": 1}
    return transformer.from_config(FLOW_TINY | values, "cpu")


@pytest.fixture(scope="module")
def batch():
    return room_batch(0, 2, 5, SIZE)


@pytest.fixture(scope="module")
def clips(stage, batch):
    return stage.encoder.encode(batch)


def test_latents_are_the_pipelines(stage, batch, clips):
    encoder = stage.encoder
    vae, vggt = encoder.teachers.video_vae, encoder.teachers.vggt
    with torch.no_grad():
        video = (batch.colors * 2 - 1).transpose(1, 2)
        expected = {"appearance": torch.stack(encode_video(vae, video), dim=1)}
        packed = pack_tokens(vggt.aggregate(batch.colors), (8, 8))
        expected["geometry"] = torch.stack(encoder.adapter.encode(packed), dim=1)
        known = [control_video(batch.colors[:, task.known_frames(5)], task, 5) for task in CONTROLLED]
        expected["control"] = torch.stack([torch.stack(encode_video(vae, v), dim=1) for v in known], dim=1)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(clips, name), value, atol=2e-5, rtol=1e-4)
    assert clips.geometry[:, 0].std() > 0.5
    assert clips.size == SIZE
    assert len(clips) == 2


def test_conditions_are_the_pipelines(stage, batch, clips):
    pipeline = stage.pipeline()
    with torch.no_grad():
        image = stage._image(clips)
        torch.testing.assert_close(image, stage.image_encoder(quantize_like_upstream(batch.colors[:, 0])))
        text = pipeline.transformer.pad_text(pipeline.embed(batch.captions))
        torch.testing.assert_close(stage._text(clips, torch.tensor([True, True])), text)
        empty = pipeline.transformer.pad_text(pipeline.embed([""]))
        mixed = stage._text(clips, torch.tensor([True, False]))
        torch.testing.assert_close(mixed, torch.cat((text[:1], empty)))


@pytest.mark.parametrize("task", list(Task))
def test_control_latents_are_the_pipelines(stage, clips, task):
    index = list(Task).index(task)
    own = stage._control(clips, torch.tensor([index, index]), lambda posterior: posterior[:, 0])
    posterior = clips.appearance if task is Task.ALL_VIEW else clips.control[:, index]
    assert torch.equal(own, control_latents(posterior[:, 0], task, 5))


def test_each_clip_has_its_own_task(stage, clips):
    both = [stage._control(clips, torch.tensor([t, t]), lambda posterior: posterior[:, 0]) for t in (0, 2)]
    mixed = stage._control(clips, torch.tensor([2, 0]), lambda posterior: posterior[:, 0])
    assert torch.equal(mixed, torch.stack((both[1][0], both[0][1])))


def test_camera_tokens_are_the_pipelines(stage, batch, clips):
    """The true path with the clip's metres per unit, through the pipeline's own functions."""
    network, shape = stage.module.transformer, LatentShape(5, *SIZE)
    with torch.no_grad():
        own = camera_tokens(network.camera_adapter, clip_rays(clips, torch.tensor([True, True])))
        for index in range(2):
            scale = float(clips.metres_per_unit[index])
            path = CameraPath(batch.T_world_cam[index], batch.intrinsics[index], SIZE, scale)
            expected = network.embed_cameras(pack_cameras(camera_rays(path, shape, "cpu")[None]))
            torch.testing.assert_close(own[index : index + 1], expected, atol=1e-5, rtol=1e-4)
        free = camera_tokens(network.camera_adapter, clip_rays(clips, torch.tensor([True, False])))
        nothing = network.embed_cameras(pack_cameras(torch.zeros(1, 5, 6, *SIZE)))
        torch.testing.assert_close(free[1:], nothing, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(free[:1], own[:1])
    assert camera_tokens(None, torch.zeros(1)) is None


def test_the_scale_is_that_of_vggts_depth(stage, batch, clips):
    depth = stage.encoder.teachers.vggt(batch.colors).depth
    ratio = (batch.depth / depth).flatten(1).median(dim=1).values
    torch.testing.assert_close(clips.metres_per_unit, ratio, rtol=0.02, atol=0)
    assert (clips.metres_per_unit > 0).all()


def test_poses_as_they_are(parts, batch):
    values = {"checkpoint": str(parts), "captions": str(parts / "captions.txt"), "camera_scale": "none"}
    clips = transformer.from_config(FLOW_TINY | values, "cpu").encoder.encode(batch)
    assert torch.equal(clips.metres_per_unit, torch.ones(2))
    relative = torch.linalg.inv(batch.T_world_cam[:, :1]) @ batch.T_world_cam
    torch.testing.assert_close(clips.poses, relative, atol=1e-5, rtol=1e-5)


def test_clips_without_cameras_are_free(stage):
    clips = stage.encoder.encode(room_batch(0, 1, 5, SIZE, depth=False, cameras=False))
    assert not clips.has_cameras.any()
    assert clip_rays(clips, torch.tensor([True])).abs().max() == 0


def test_clips_without_depth_are_scaled_by_their_path(stage):
    clips = stage.encoder.encode(room_batch(0, 1, 5, SIZE, depth=False))
    assert clips.has_cameras.all()
    assert torch.isfinite(clips.poses).all()


def test_frozen_encoders_give_embeddings(stage, parts, batch, clips, tmp_path):
    stage.export(tmp_path / "transformer")
    values = {
        "initial": str(tmp_path / "transformer"),
        "checkpoint": str(parts),
        "train_encoders": False,
        "text_encoder": str(tmp_path / "text_encoder"),
        "image_encoder": str(tmp_path),
    }
    frozen = transformer.from_config(values, "cpu")
    assert [name for name, _ in frozen.module.named_children()] == ["transformer"]
    encoded = frozen.encoder.encode(batch)
    with torch.no_grad():
        torch.testing.assert_close(encoded.text, text_embeddings(stage.text_encoder, clips.text, clips.text_mask))
        torch.testing.assert_close(encoded.image, stage._image(clips))
        keep = torch.tensor([False, True])
        torch.testing.assert_close(frozen._text(encoded, keep), stage._text(clips, keep))


# --- the pool --------------------------------------------------------------------------------------------


class Counter:
    """Encodes nothing: a clip's every number is the source's step, so that it can be recognised."""

    def encode(self, batch):
        value = batch.colors[:, 0, 0, 0, 0]
        return EncodedClips(*[value[:, None].clone() for _ in range(10)])


class Steps:
    def __init__(self):
        self.asked = []

    def batch(self, step, batch_size, *, num_frames, size, device):
        self.asked.append(step)
        batch = room_batch(0, batch_size, num_frames, (1, 1))
        batch.colors[:] = 10.0 * step + torch.arange(batch_size).view(-1, 1, 1, 1, 1)
        return batch


def draw(pool, step, count=4):
    return pool.batch(step, count, num_frames=1, size=(1, 1), device=CPU)


def test_the_pool_moves_on_with_the_step():
    source = Steps()
    pool = PooledClips(source, Counter(), clips=6, batch=2, every=2)
    seen = [sorted(draw(pool, step, 6).clips.poses[:, 0].tolist()) for step in range(6)]
    assert source.asked == [0, 1, 2, 3, 4]
    assert seen[0] == seen[1] == [0, 1, 10, 11, 20, 21]
    assert seen[2] == seen[3] == [10, 11, 20, 21, 30, 31]
    assert seen[4] == [20, 21, 30, 31, 40, 41]


def test_a_resumed_pool_draws_the_same():
    whole = PooledClips(Steps(), Counter(), clips=6, batch=2, seed=3)
    kept = [draw(whole, step).clips.poses for step in range(7)]
    for step in (6, 2, 5):
        fresh = PooledClips(Steps(), Counter(), clips=6, batch=2, seed=3)
        assert torch.equal(draw(fresh, step).clips.poses, kept[step])
    assert not all(torch.equal(kept[0], other) for other in kept[1:])
    other = PooledClips(Steps(), Counter(), clips=6, batch=2, seed=4)
    assert not torch.equal(draw(other, 0).clips.poses, kept[0])


def test_draws_are_distinct_and_the_batch_has_its_shape():
    batch = draw(PooledClips(Steps(), Counter(), clips=6, batch=2), 0, 5)
    assert isinstance(batch, EncodedBatch)
    assert len(batch) == len(batch.clips) == 5
    assert len(set(batch.clips.text[:, 0].tolist())) == 5
    assert batch.colors.shape == (5, 1, 3, 1, 1)
    assert batch.size == (1, 1)
    assert batch.to("cpu").clips is batch.clips


def test_another_shape_fills_the_pool_anew():
    source = Steps()
    pool = PooledClips(source, Counter(), clips=4, batch=2)
    draw(pool, 0)
    pool.batch(0, 2, num_frames=5, size=(1, 1), device=CPU)
    assert source.asked == [0, 1, 0, 1]


def test_wrong_pools():
    with pytest.raises(InputError, match="the pool's 5 clips must be a multiple of the 2"):
        PooledClips(Steps(), Counter(), clips=5, batch=2)
    with pytest.raises(InputError, match="a batch of 5 clips cannot be drawn from a pool of 4"):
        draw(PooledClips(Steps(), Counter(), clips=4, batch=2), 0, 5)


def test_training_from_the_pool(stage):
    """The pool's clips are those of the source, and the stage trains on them."""
    source = RoomSource()
    pooled = PooledClips(source, stage.encoder, clips=2, batch=1).batch(0, 2, num_frames=5, size=SIZE, device=CPU)
    assert source.asked == [0, 1]
    second = stage.encoder.encode(room_batch(1, 1, 5, SIZE)).appearance
    assert min(float((own - second[0]).abs().max()) for own in pooled.clips.appearance) < 1e-5
    loss, _ = stage.loss(pooled, 0, torch.Generator().manual_seed(0))
    again, _ = stage.loss(replace(pooled, colors=pooled.colors + 1), 0, torch.Generator().manual_seed(0))
    assert loss == again


def test_the_stage_wraps_its_source(parts):
    values = {"checkpoint": str(parts), "captions": str(parts / "captions.txt")}
    source = RoomSource()
    assert transformer.from_config(FLOW_TINY | values, "cpu").wrap_source(source) is source
    pool = {"pool_clips": 6, "pool_batch": 3, "pool_every": 5, "seed": 7}
    wrapped = transformer.from_config(FLOW_TINY | values | pool, "cpu").wrap_source(source)
    assert isinstance(wrapped, PooledClips)
    assert (wrapped.source, wrapped.clips, wrapped.chunk, wrapped.every, wrapped.seed) == (source, 6, 3, 5, 7)
