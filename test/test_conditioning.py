"""Known frames, masks, packed rays and camera paths as the transformer is given them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.conditioning import (
    LatentShape,
    Task,
    camera_rays,
    choose_images,
    control_latents,
    control_video,
    fold_time,
    known_frame_mask,
    pack_cameras,
    stack_frames,
    thin_path,
)
from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import intrinsics_after_resize_crop, pluecker_rays
from gen3r_core.scene import CameraPath

SHAPE = LatentShape(5, 112, 224)
counts = st.integers(0, 4).map(lambda k: 4 * k + 1)


def path(frames, *, image_size=(112, 224), metres_per_unit=None):
    """Turning and moving, from anywhere in the world."""
    angle = torch.linspace(0.3, 1.0, frames, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 0] = poses[:, 2, 2] = angle.cos()
    poses[:, 0, 2], poses[:, 2, 0] = angle.sin(), -angle.sin()
    poses[:, :3, 3] = torch.stack((angle, 2 * angle - 1, -angle), dim=1)
    K = torch.tensor([[150.0, 0, 110], [0, 140, 50], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    return CameraPath(poses, K, image_size, metres_per_unit)


# --- tasks and shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "five", "one"),
    [(Task.ONE_VIEW, [0], [0]), (Task.TWO_VIEW, [0, 4], [0]), (Task.ALL_VIEW, [0, 1, 2, 3, 4], [0])],
)
def test_known_frames(task, five, one):
    assert task.known_frames(5) == five
    assert task.known_frames(1) == one


@given(counts, st.integers(1, 12), st.integers(1, 12))
def test_latent_shapes(frames, rows, columns):
    shape = LatentShape(frames, 112 * rows, 112 * columns)
    assert shape.size == (112 * rows, 112 * columns)
    assert shape.latent == (1 + (frames - 1) // 4, 14 * rows, 28 * columns)


@given(st.integers(-100, 1000))
def test_frame_counts(frames):
    if frames > 0 and (frames - 1) % 4 == 0:
        assert LatentShape(frames, 112, 112).num_frames == frames
        return
    with pytest.raises(InputError, match=rf"must be 4k\+1 .*, got {frames}; the nearest are (\d+) and (\d+)") as caught:
        LatentShape(frames, 112, 112)
    below, above = (int(word) for word in str(caught.value).rpartition("are ")[2].split(" and "))
    assert below % 4 == above % 4 == 1
    assert above == below + 4
    assert below < max(frames, 2)
    if frames > 0:
        assert below < frames < above


@given(st.integers(-300, 3000), st.booleans())
def test_sizes(side, is_height):
    size = (side, 112) if is_height else (112, side)
    if side > 0 and side % 112 == 0:
        assert LatentShape(5, *size).size == size
        return
    name = "height" if is_height else "width"
    with pytest.raises(
        InputError, match=rf"image {name} {side} is not supported: .* multiples of 112 pixels; the near"
    ):
        LatentShape(5, *size)


def test_the_nearest_sizes_are_named():
    with pytest.raises(InputError, match="the nearest are 448 and 560"):
        LatentShape(5, 500, 112)
    with pytest.raises(InputError, match="the nearest are 112 and 224"):
        LatentShape(5, 8, 112)


# --- folding ---------------------------------------------------------------------------------------------


@given(counts, st.integers(1, 2), st.integers(1, 3), st.data())
def test_each_folded_element_is_the_right_frame(frames, batch, channels, data):
    clip = torch.arange(batch * frames * channels * 6).view(batch, frames, channels, 2, 3)
    folded = fold_time(clip)
    assert folded.shape == (batch, 4 * channels, (frames + 3) // 4, 2, 3)
    b, c, part, latent = (data.draw(st.integers(0, n - 1)) for n in (batch, channels, 4, folded.shape[2]))
    frame = 0 if latent == 0 else 4 * (latent - 1) + 1 + part
    assert torch.equal(folded[b, 4 * c + part, latent], clip[b, frame, c])


@given(counts, st.data())
def test_packed_rays_are_the_same_on_both_halves(frames, data):
    rays = torch.arange(frames * 6 * 6, dtype=torch.float32).view(1, frames, 6, 2, 3)
    packed = pack_cameras(rays)
    assert packed.shape == (1, 24, (frames + 3) // 4, 2, 6)
    left, right = packed.chunk(2, dim=-1)
    assert torch.equal(left, right)
    channel, part = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 3))
    assert torch.equal(left[0, 4 * channel + part, 0], rays[0, 0, channel])
    assert torch.equal(left[0, 4 * channel + part, -1], rays[0, max(frames - 4 + part, 0), channel])


@given(st.sampled_from(list(Task)), counts)
def test_the_mask_is_one_on_known_frames_of_the_appearance_half(task, frames):
    mask = known_frame_mask(task, frames, (2, 3))
    assert mask.shape == (1, 4, (frames + 3) // 4, 2, 6)
    assert not mask[..., 3:].any()
    known = {
        (0, part) if frame == 0 else (1 + (frame - 1) // 4, (frame - 1) % 4)
        for frame in task.known_frames(frames)
        for part in range(4)
    }
    for latent in range(mask.shape[2]):
        for part in range(4):
            assert (mask[0, part, latent, :, :3] == float((latent, part) in known)).all()


# --- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", Task)
def test_the_control_video_has_black_where_nothing_is_known(task):
    known = task.known_frames(5)
    images = torch.rand(2, len(known), 3, 4, 6, generator=torch.Generator().manual_seed(0))
    video = control_video(images, task, 5)
    assert video.shape == (2, 3, 5, 4, 6)
    for place, frame in enumerate(known):
        torch.testing.assert_close(video[:, :, frame], images[:, place] * 2 - 1)
    unknown = [frame for frame in range(5) if frame not in known]
    assert (video[:, :, unknown] == -1).all()


def test_control_values_stay_in_range():
    video = control_video(torch.tensor([-0.5, 1.5]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 2, 2), Task.TWO_VIEW, 5)
    assert video.min() == -1
    assert video.max() == 1


def test_control_latents_are_latents_zeros_and_mask():
    latents = torch.randn(2, 16, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    control = control_latents(latents, Task.TWO_VIEW, 5)
    assert control.shape == (2, 20, 2, 4, 6)
    assert torch.equal(control[:, :16, :, :, :3], latents)
    assert not control[:, :16, :, :, 3:].any()
    assert torch.equal(control[:, 16:], known_frame_mask(Task.TWO_VIEW, 5, (4, 3)).expand(2, -1, -1, -1, -1))
    assert control_latents(latents.bfloat16(), Task.ONE_VIEW, 5).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("task", "frames", "chosen"),
    [
        (Task.ONE_VIEW, 5, [0]),
        (Task.TWO_VIEW, 5, [0, 6]),
        (Task.TWO_VIEW, 1, [0]),
        (Task.ALL_VIEW, 5, [0, 1, 2, 3, 4]),
        (Task.ALL_VIEW, 1, [0]),
    ],
)
def test_the_images_that_a_task_uses(task, frames, chosen):
    images = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 3, 2, 2)
    assert choose_images(images, task, frames)[:, 0, 0, 0].tolist() == chosen


def test_one_image_is_first_and_last_of_one_frame():
    assert choose_images(torch.zeros(1, 3, 2, 2), Task.TWO_VIEW, 1).shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("task", "frames", "count", "message"),
    [
        (Task.ONE_VIEW, 5, 0, r"task 1view needs 1 image, got 0$"),
        (Task.TWO_VIEW, 5, 1, r"task 2view needs 2 images, got 1$"),
        (Task.ALL_VIEW, 9, 0, r"task allview needs 9 images, got 0$"),
        (Task.ALL_VIEW, 9, 8, r"task allview needs 9 images, got 8; lower the number of frames to 5$"),
        (Task.ALL_VIEW, 9, 3, r"needs 9 images, got 3; lower the number of frames to 1$"),
    ],
)
def test_too_few_images(task, frames, count, message):
    with pytest.raises(InputError, match=message):
        choose_images(torch.zeros(count, 3, 2, 2), task, frames)


def test_stacking_images():
    images = [torch.full((3, 2, 4), float(i)) for i in range(3)]
    assert torch.equal(stack_frames(images)[:, 0, 0, 0], torch.arange(3.0))
    with pytest.raises(InputError, match="no images were given"):
        stack_frames([])
    with pytest.raises(
        InputError, match=r"mixed size: image 2 is \(2, 5\), image 0 is \(2, 4\); all must have the same"
    ):
        stack_frames([*images[:2], torch.zeros(3, 2, 5)])


# --- cameras ---------------------------------------------------------------------------------------------


def test_rays_are_relative_to_the_first_camera():
    rays = camera_rays(path(5), SHAPE, "cpu")
    assert rays.shape == (5, 6, 112, 224)
    assert rays.dtype == torch.float32
    poses = torch.linalg.inv(path(5).T_world_cam[0]) @ path(5).T_world_cam
    torch.testing.assert_close(rays, pluecker_rays(poses, path(5).intrinsics, SHAPE.size).float(), rtol=1e-4, atol=1e-5)
    assert not rays[0, :3].any()  # the first camera stands at the origin


def test_metres_are_divided_by_the_scale():
    metres = path(5, metres_per_unit=2.5)
    by_hand = metres.T_world_cam.clone()
    by_hand[:, :3, 3] /= 2.5
    expected = camera_rays(CameraPath(by_hand, metres.intrinsics, metres.image_size), SHAPE, "cpu")
    torch.testing.assert_close(camera_rays(metres, SHAPE, "cpu"), expected, rtol=1e-4, atol=1e-6)
    assert (camera_rays(path(5), SHAPE, "cpu") - expected).abs().max() > 0.1
    # The path that was given is unchanged.
    assert torch.equal(metres.T_world_cam, path(5).T_world_cam)


def test_intrinsics_follow_the_images():
    large = path(5, image_size=(560, 560))
    K = intrinsics_after_resize_crop(large.intrinsics, (560, 560), SHAPE.size)
    expected = camera_rays(CameraPath(large.T_world_cam, K, SHAPE.size), SHAPE, "cpu")
    torch.testing.assert_close(camera_rays(large, SHAPE, "cpu"), expected)
    assert (camera_rays(path(5), SHAPE, "cpu") - expected).abs().max() > 0.1


@given(st.integers(1, 60), counts)
def test_paths_are_thinned_evenly_or_refused(count, frames):
    T = torch.eye(4).repeat(count, 1, 1)
    T[:, 0, 3] = torch.arange(count)
    given_path = CameraPath(T, torch.eye(3).repeat(count, 1, 1), (112, 112), 3.0)
    fits = frames in {count, 1} or (count > frames and (count - 1) % (frames - 1) == 0)
    if not fits:
        with pytest.raises(InputError, match=f"the camera path has {count} cameras but the job has {frames} frames; "):
            thin_path(given_path, frames)
        return
    thinned = thin_path(given_path, frames)
    places = thinned.T_world_cam[:, 0, 3]
    assert len(thinned) == len(thinned.intrinsics) == frames
    assert places[0] == 0
    if frames > 1:
        assert places[-1] == count - 1
        assert len(places.diff().unique()) == 1
    assert (thinned.image_size, thinned.metres_per_unit) == ((112, 112), 3.0)


def test_the_frame_counts_that_would_work_are_named():
    with pytest.raises(
        InputError, match=r"has 49 cameras but the job has 21 frames; with these cameras 5, 9, 13, 17, 25, 49"
    ):
        thin_path(path(49), 21)
    with pytest.raises(InputError, match="has 3 cameras but the job has 5 frames; give one camera a frame"):
        thin_path(path(3), 5)


def test_a_thinned_path_stands_where_the_path_stood():
    thinned = thin_path(path(9), 5)
    assert math.isclose(float(thinned.T_world_cam[1, 0, 3]), float(path(9).T_world_cam[2, 0, 3]))
