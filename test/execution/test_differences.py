"""The distance that speed-ups put between latents, beside an attention kernel's."""

from functools import partial

import pytest
from lively import lively_pipeline

from gen3r_core.conditioning import Task
from gen3r_core.execution.differences import Differences, format_differences, measure_differences
from gen3r_core.execution.grid import speed_up
from gen3r_core.jobs import Sampling


@pytest.mark.slow
def test_speed_ups_beside_a_kernel():
    pipeline = lively_pipeline()
    sampling = Sampling(steps=2, num_frames=5)
    put_on = partial(speed_up, pipeline, channels_last=True, compiled=True, backend="eager")
    found = measure_differences(pipeline, Task.TWO_VIEW, sampling, put_on)
    assert list(found.kernels) == ["math"]
    assert 0 < found.kernels["math"] < 1e-5
    assert 0 < found.optimised < 1e-5


def test_what_moves_the_latents_is_seen():
    pipeline = lively_pipeline()

    def spoil():
        pipeline.transformer.patch_embedding.weight.data.mul_(1.1)

    found = measure_differences(pipeline, Task.ONE_VIEW, Sampling(steps=2, num_frames=5), spoil)
    assert found.optimised > 1e-3
    assert not found.accepted
    assert "MORE than another attention kernel" in format_differences(found)


def test_the_table():
    words = format_differences(Differences({"flash": 0.02, "efficient": 0.01}, 0.015))
    assert "| plain, attention flash | 2.000e-02 |" in words
    assert "| all exact speed-ups | 1.500e-02 |" in words
    assert words.endswith("no more than another attention kernel does.")
