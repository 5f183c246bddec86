"""Requests: what is refused at once, and how they travel."""

from dataclasses import fields, replace

import numpy as np
import pytest
from serving_jobs import pictures, prediction, reconstruction

from gen3r_core import jobs
from gen3r_core.conditioning import Task
from gen3r_core.errors import InputError
from gen3r_core.serving.options import WorkerOptions, spare_cores
from gen3r_core.serving.requests import (
    TASKS,
    Cameras,
    CloudOptions,
    PredictOptions,
    PredictRequest,
    ReconstructRequest,
    pack,
    unpack,
)
from gen3r_core.serving.shared import SharedArrays, write_block
from gen3r_core.serving.tickets import Ticket

IMAGES = pictures(2)
K = np.tile(np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]]), (2, 1, 1))
PATH = Cameras(np.tile(np.eye(4), (2, 1, 1)), K, (90, 120), 0.5)


def test_options_are_those_of_the_pipeline():
    """But for the point map, which no result has."""
    assert [*(own.name for own in fields(PredictOptions)), "point_map"] == [own.name for own in fields(jobs.Sampling)]
    theirs = jobs.Sampling()
    for own in fields(PredictOptions):
        assert getattr(PredictOptions(), own.name) == getattr(theirs, own.name), own.name
    assert PredictRequest(IMAGES).seed == jobs.Job(None, Task.ONE_VIEW).seed
    assert list(TASKS) == [str(task) for task in Task]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image is needed, got none"),
        (IMAGES[0], r"uint8 RGB of shape \[H, W, 3\], image 0 is uint8 \(120, 3\)"),
        (IMAGES.astype(np.float32), r"image 0 is float32 \(90, 120, 3\)"),
        (IMAGES[..., :2], r"image 0 is uint8 \(90, 120, 2\)"),
        ([IMAGES[0], IMAGES[1].tolist()], "image 1 is list"),
        ([IMAGES[0], IMAGES[1, :80]], r"image 0 has \(90, 120\) and image 1 \(80, 120\) \(height, width\)"),
        (IMAGES[:, :0], r"images have no pixels: their shape is \(0, 120, 3\)"),
    ],
)
def test_images(images, message):
    for request in (ReconstructRequest, PredictRequest):
        with pytest.raises(InputError, match=message):
            request(images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ReconstructRequest(IMAGES, K[:1]),
            r"intrinsics must be .* shape \[2, 3, 3\], got float64 \(1, 3, 3\)",
        ),
        (lambda: ReconstructRequest(IMAGES, K.astype(int)), r"floating point array .* got int64 \(2, 3, 3\)"),
        (lambda: ReconstructRequest(IMAGES, K * np.nan), "intrinsics contain NaN or infinite values"),
        (lambda: ReconstructRequest(IMAGES, K.tolist()), "intrinsics must be a floating point array .* got list"),
        (lambda: replace(PATH, T_world_cam=PATH.T_world_cam[:, :3]), r"poses must be .* \[2, 4, 4\], .* \(2, 3, 4\)"),
        (lambda: replace(PATH, intrinsics=K[:1]), r"intrinsics must be .* shape \[2, 3, 3\]"),
        (lambda: PredictRequest(IMAGES, "3view"), "task '3view' is unknown; choose one of: 1view, 2view, allview"),
        (lambda: PredictRequest(IMAGES[:1], "2view"), "task 2view needs 2 images, got 1"),
        (lambda: PredictRequest(IMAGES, prompt="x" * 10_001), "a prompt has at most 10000 characters, got 10001"),
        (
            lambda: Ticket(prediction(options=PredictOptions(size=[112, 112])), None, print),
            "an option of the predict job is of a wrong type: unhashable type: 'list'",
        ),
        (lambda: Ticket(reconstruction(longest=lambda: 1), None, print), "of the reconstruct job is of a wrong type"),
        (lambda: CloudOptions(max_points=0), "at least 1 point"),
        (lambda: CloudOptions(drop_percent=101), "0 to 100 percent"),
        (lambda: CloudOptions(min_confidence=float("nan")), "finite confidence"),
        (
            lambda: WorkerOptions("folder", "tiny"),
            "a worker has one model, got checkpoint 'folder' and random size 'tiny'",
        ),
        (lambda: WorkerOptions(threads=0), "at least 1 thread, got 0"),
        (lambda: WorkerOptions(niceness=-1), "niceness of a worker is 0 to 19, got -1"),
        (lambda: WorkerOptions(backoff_s=0), "backoff_s of a worker must be positive seconds, got 0"),
        (lambda: WorkerOptions(silence_s=0.3), "silent for at least two heartbeats of 0.25 s, got silence_s 0.3"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "request_",
    [
        ReconstructRequest(list(IMAGES), longest=56, limit_depth=False),
        ReconstructRequest(IMAGES, K.astype(np.float32)),
        PredictRequest(IMAGES, "2view", "zoom_in", "a room", 7, PredictOptions(steps=3)),
        PredictRequest(IMAGES, "1view", PATH, cloud=CloudOptions(max_points=5)),
    ],
)
def test_a_request_arrives_as_it_was(request_):
    plain, arrays = pack(request_)
    got = unpack(request_.kind, plain, SharedArrays(*write_block(arrays)))
    assert type(got) is type(request_)
    for own in fields(request_):
        sent, arrived = getattr(request_, own.name), getattr(got, own.name)
        if own.name in {"images", "intrinsics"} and sent is not None:
            np.testing.assert_array_equal(arrived, np.asarray(sent))
        elif isinstance(sent, Cameras):
            np.testing.assert_array_equal(arrived.T_world_cam, sent.T_world_cam)
            np.testing.assert_array_equal(arrived.intrinsics, sent.intrinsics)
            assert (arrived.image_size, arrived.metres_per_unit) == (sent.image_size, sent.metres_per_unit)
        else:
            assert arrived == sent, own.name


def test_keys_tell_jobs_that_take_equally_long():
    assert reconstruction().pace_key == reconstruction().pace_key
    assert reconstruction(2).pace_key != reconstruction(3).pace_key
    assert prediction(3).pace_key == prediction(7, seed=1, prompt="other").pace_key
    unguided = replace(prediction().options, guidance=1.0)
    assert prediction().pace_key != prediction(options=unguided).pace_key
    assert prediction().pace_key != prediction(cameras="zoom_in").pace_key
    of_frames = replace(prediction().options, geometry="frames")
    assert prediction().pace_key != prediction(options=of_frames).pace_key
    assert prediction(task="allview").pace_key != prediction(task="2view").pace_key


def test_one_core_stays_with_the_node():
    assert spare_cores() >= 1
