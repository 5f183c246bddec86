import math

import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.geometry.trajectories import BUILT_IN_PATHS, built_in_path


@pytest.mark.parametrize("name", BUILT_IN_PATHS)
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_paths_are_rigid_and_start_at_the_identity(name, frames):
    path = built_in_path(name, frames, 1.7)
    assert path.shape == (frames, 4, 4)
    assert path.dtype == torch.float32
    assert torch.equal(path[0], torch.eye(4))
    R = path[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand_as(R), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "end"), [("zoom_in", 1.7), ("zoom_out", -1.7)])
def test_zooms_move_evenly_along_z(name, end):
    path = built_in_path(name, 5, 1.7)
    torch.testing.assert_close(path[:, 2, 3], torch.linspace(0, end, 5))
    assert path[:, :2, 3].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("arc_right", 0, 1), ("arc_left", 0, -1), ("translate_up", 1, -1), ("translate_down", 1, 1)],
)
def test_turns_end_at_15_degrees_and_do_not_move(name, axis, sign):
    last = built_in_path(name, 7, 3.0)[-1]
    assert float(last[axis, 2]) == pytest.approx(sign * math.sin(math.radians(15)))
    assert last[:3, 3].abs().max() == 0


def test_free_stands_still():
    assert torch.equal(built_in_path("free", 3, 2.0), torch.eye(4).expand(3, 4, 4))


def test_scale_as_tensor():
    assert torch.equal(built_in_path("zoom_in", 4, torch.tensor([0.5])), built_in_path("zoom_in", 4, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spiral", 3), r"called 'spiral'; there are zoom_in, .*free"),
        (("free", 0), "at least one frame, got 0"),
        (("zoom_in", 3, float("nan")), "finite number, got nan"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        built_in_path(*arguments)
