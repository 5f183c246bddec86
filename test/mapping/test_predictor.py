import numpy as np
import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.mapping.predictor import VggtPredictor
from gen3r_core.mapping.windows import SequenceFrame, WindowStore, run_windows
from gen3r_core.models.vggt import VGGT, CameraHeadConfig, DenseHeadConfig, DinoV2Config, VGGTConfig


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return VggtPredictor(VGGT(TINY).eval(), "random")


TINY = VGGTConfig(
    image_size=56, patch_size=14, embed_dim=32, depth=4, num_heads=2, layers=(0, 1, 2, 3),
    patch_embed=DinoV2Config(image_size=56, patch_size=14, embed_dim=32, depth=1, num_heads=2),
    camera_head=CameraHeadConfig(num_heads=2, trunk_depth=1, num_iterations=2),
    dense_head=DenseHeadConfig(features=16, out_channels=(8, 8, 8, 8), hidden=8),
)  # fmt: skip


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 56, 70, 3), dtype=np.uint8)


def test_predictions_become_windows(predictor):
    found = predictor(pictures(3))
    assert found.depth.shape == found.confidence.shape == (3, 56, 70)
    assert found.T_window_cam.shape == (3, 4, 4)
    assert found.T_window_cam.dtype == found.intrinsics.dtype == np.float64
    np.testing.assert_allclose(found.intrinsics[:, 0, 2], 35)
    with WindowStore(None, {"model": predictor.name}) as store:
        frames = [SequenceFrame(n, image) for n, image in enumerate(pictures(3))]
        (name,) = run_windows(frames, predictor, store)
        assert store.get(name).colors.shape == (3, 56, 70, 3)


def test_a_frame_has_its_features_whatever_it_is_seen_with(predictor):
    images = pictures(4)
    whole, alone = predictor(images).features, predictor(images[2:3]).features
    np.testing.assert_allclose(alone[0], whole[2], atol=1e-5)
    assert whole.shape == (4, 12 * 32)
    assert np.abs(whole[1] - whole[2]).max() > 1e-3


def test_sizes_that_are_no_multiple_are_refused(predictor):
    with pytest.raises(InputError):
        predictor(np.zeros((1, 50, 70, 3), dtype=np.uint8))
