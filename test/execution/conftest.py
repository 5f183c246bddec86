"""What the tests of execution share: one lively pipeline, one short job."""

import pytest
import torch
from lively import lively_pipeline

from gen3r_core.conditioning import Task
from gen3r_core.jobs import Job, Sampling


@pytest.fixture(scope="package")
def pipeline():
    """Shared: leave it as it was."""
    return lively_pipeline()


@pytest.fixture(scope="package")
def job():
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    return Job(images, Task.TWO_VIEW, "a room", "zoom_in")


@pytest.fixture(scope="package")
def sampling():
    return Sampling(steps=3, num_frames=1, point_map=True)


@pytest.fixture(scope="package")
def plain(pipeline, job, sampling):
    """What the job gives with nothing put on."""
    return pipeline.generate(job, sampling)
