import numpy as np
import pytest
from camera_tracks import arc, as_modelled, base_camera, random_rotations, random_sim3, yawed
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import poses_from, rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.metric import MetricOptions, fit_metric, scale_from_depth

seeds = st.integers(0, 2**31)


def angle_between(first, second):
    return float(np.degrees(rotation_angles(first.rotation.T @ second.rotation)))


def scrambled(M, rows, rng):
    """Some of the model's cameras somewhere else altogether."""
    M = M.copy()
    M[rows] = poses_from(
        random_rotations(rng, len(rows)), M[:, :3, 3].mean(axis=0) + rng.uniform(-9, 9, (len(rows), 3))
    )
    return M


def assert_same(found, true, T_model):
    assert found.metric, found.reason
    assert found.reason == ""
    assert found.world_from_model.scale == pytest.approx(true.scale, rel=1e-7)
    assert angle_between(found.world_from_model, true) < 1e-5
    np.testing.assert_allclose(
        found.world_from_model.apply(T_model[:, :3, 3]), true.apply(T_model[:, :3, 3]), atol=1e-6
    )


@given(seeds, st.integers(3, 12), st.floats(0.2, 20), st.floats(-3, 3))
@settings(deadline=None, max_examples=60)
def test_exact_cameras_give_the_similarity_exactly(seed, count, length, turned):
    true, T = random_sim3(np.random.default_rng(seed)), arc(count, length, turned)
    M = as_modelled(T, true)
    found = fit_metric(M, T)
    if found.baseline_m >= 0.1:
        assert_same(found, true, M)
        assert found.residual_m < 1e-7
        assert found.scale_error < 1e-6
        assert found.used.all()


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_a_straight_line_does_not_leave_a_turn_open(seed):
    rng = np.random.default_rng(seed)
    true, T = random_sim3(rng), arc(6, 1.5, 0.0)
    assert_same(fit_metric(as_modelled(T, true), T), true, as_modelled(T, true))
    noisy = fit_metric(as_modelled(T, true, rng, 0.01, 0.5), T)
    assert noisy.metric
    assert angle_between(noisy.world_from_model, true) < 2


@given(seeds, st.integers(5, 12))
@settings(deadline=None, max_examples=40)
def test_outliers_do_not_count(seed, count):
    rng = np.random.default_rng(seed)
    true, T = random_sim3(rng), arc(count)
    rows = rng.permutation(count)[: (count - 2) // 3]
    M = scrambled(as_modelled(T, true), rows, rng)
    found = fit_metric(M, T)
    assert_same(found, true, np.delete(M, rows, axis=0))
    assert sorted(np.flatnonzero(~found.used)) == sorted(rows)
    assert found.residual_m < 1e-6


def test_noise_is_reported_as_it_is():
    errors, expected, residuals = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true, T = random_sim3(rng), arc(10)
        found = fit_metric(as_modelled(T, true, rng, 0.03, 1.0), T)
        assert found.metric
        errors.append(found.world_from_model.scale / true.scale - 1)
        expected.append(found.scale_error)
        residuals.append(found.residual_m)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.mean(expected), rel=0.3)
    assert np.mean(residuals) == pytest.approx(0.03, rel=0.2)
    assert found.rotation_residual_deg == pytest.approx(1, rel=0.6)


def test_errors_of_the_model_do_not_shrink_the_scale():
    options = MetricOptions(max_scale_error=1.0, max_residual_ratio=1.0)
    scales = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        T = arc(12, 0.5, 0.2)
        found = fit_metric(as_modelled(T, random_sim3(rng, 1.0), rng, 0.08, 0.5), T, options)
        scales.append(found.world_from_model.scale)
    # The other regression would be off by the noise's share of the variance, 0.08^2 / 0.17^2: 18 %.
    assert np.median(scales) == pytest.approx(1, abs=0.04)


def test_a_turn_on_the_spot_tells_no_scale():
    still = poses_from(base_camera(0, 0)[:3, :3], np.array([0.0, 0, 0.6]))
    T = np.stack([yawed(1, 2, yaw) for yaw in np.linspace(0, 2, 8)]) @ still
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.02):
        found = fit_metric(as_modelled(T, random_sim3(rng), rng, noise), T)
        assert not found.metric
        assert found.world_from_model is None
        assert found.reason == "the camera moved only 0.000 m between keyframes, 0.1 m are needed"


def test_a_model_that_stands_still_tells_no_scale():
    T = arc(5)
    M = T.copy()
    M[:, :3, 3] = 0
    assert fit_metric(M, T).reason == "the model's cameras all stand at one place"


def test_too_little_motion_for_the_noise():
    rng = np.random.default_rng(1)
    T = arc(4, 0.15, 0.1)
    found = fit_metric(as_modelled(T, random_sim3(rng), rng, 0.02, 0.5), T)
    assert not found.metric
    assert "moved too little to tell the scale" in found.reason
    assert found.scale_error > 0.05


def test_a_path_of_another_shape_does_not_fit():
    rng = np.random.default_rng(2)
    T = arc(8, 3.0, 0.0)
    M = T.copy()
    M[:, :3, 3] = rng.uniform(0, 1, (8, 3))
    found = fit_metric(M, T)
    assert not found.metric
    assert "does not fit the known one" in found.reason


def test_an_optical_frame_that_is_not_one_does_not_fit():
    # TF that gives the body's axes instead of the optical frame's: rotations agree with each other, centres do not.
    T = arc(8, 2.0, 0.0)
    wrong = T.copy()
    wrong[:, :3, :3] = T[:, :3, :3] @ base_camera()[:3, :3].T
    found = fit_metric(as_modelled(T, random_sim3(np.random.default_rng(0))), wrong)
    assert not found.metric
    assert "does not fit the known one" in found.reason


def test_half_of_the_keyframes_elsewhere():
    rng = np.random.default_rng(5)
    M = scrambled(as_modelled(arc(6), random_sim3(rng)), [0, 2, 5], rng)
    assert not fit_metric(M, arc(6)).metric


def test_two_of_three_agree():
    rng = np.random.default_rng(6)
    found = fit_metric(scrambled(as_modelled(arc(3), random_sim3(rng)), [1], rng), arc(3))
    assert found.reason == "only 2 of 3 keyframes agree on how the model lies in the world"
    assert found.used.tolist() == [True, False, True]


def test_agreeing_keyframes_that_hardly_moved():
    T = np.concatenate([arc(5, 0.05, 0.0), arc(2)[1:]])
    M = as_modelled(T, Sim3(1.0, np.eye(3), np.zeros(3)))
    M[5, :3, 3] += [0, 5, 5]
    found = fit_metric(M, T)
    assert found.reason == ("the camera moved only 0.050 m between the keyframes that agree, 0.1 m are needed")
    assert found.used.tolist() == [True] * 5 + [False]


def test_most_known_positions_coincide():
    T = np.concatenate([np.repeat(arc(1), 4, axis=0), arc(2)[1:]])
    M = np.concatenate([T[:4], T[4:]])
    M[1:4, :3, 3] += [[0, 0, 3e-9], [0, 3e-9, 0], [3e-9, 0, 0]]
    assert_same(fit_metric(M, T), Sim3(1.0, np.eye(3), np.zeros(3)), M)


def test_missing_poses_are_left_out_and_counted():
    true, T = random_sim3(np.random.default_rng(3)), arc(6)
    M, known = as_modelled(T, true), T.copy()
    known[[1, 4]] = np.nan
    found = fit_metric(M, known)
    assert_same(found, true, M)
    assert found.used.tolist() == [True, False, True, True, False, True]
    known[[0, 2]] = np.nan
    assert fit_metric(M, known).reason == "only 2 of 6 keyframes have a known pose, 3 are needed"
    assert fit_metric(np.empty((0, 4, 4)), np.empty((0, 4, 4))).reason.startswith("only 0 of 0 keyframes")


def test_a_known_scale_needs_one_camera_and_no_motion():
    true = random_sim3(np.random.default_rng(4), 0.7)
    T = arc(1)
    found = fit_metric(as_modelled(T, true), T, known_scale=0.7)
    assert_same(found, true, as_modelled(T, true))
    assert found.scale_error == 0
    spot = np.repeat(arc(1), 5, axis=0)
    assert_same(fit_metric(as_modelled(spot, true), spot, known_scale=0.7), true, as_modelled(spot, true))
    wrong = fit_metric(as_modelled(arc(5), true), arc(5), known_scale=1.4)
    assert not wrong.metric
    assert "does not fit the known one" in wrong.reason
    assert not fit_metric(np.full((1, 4, 4), np.nan), T, known_scale=0.7).metric


def test_bad_input_is_named():
    with pytest.raises(InputError, match="3 model camera poses and 4 world camera poses"):
        fit_metric(arc(3), arc(4))
    with pytest.raises(InputError, match="world camera pose 1 is not a rigid transform"):
        fit_metric(arc(3), arc(3) * np.array([1, 2, 1])[:, None, None])
    with pytest.raises(InputError, match="known scale must be positive"):
        fit_metric(arc(3), arc(3), known_scale=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_keyframes": 1}, "at least 2 keyframes"),
        ({"min_pixels": 0}, "at least 2 keyframes or 1 pixel"),
        ({"lever_m": 0.0}, "lever_m must be a positive number"),
        ({"max_scale_error": float("nan")}, "max_scale_error must be a positive"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MetricOptions(**options)


def depth(seed=0, shape=(3, 48, 64)):
    return np.random.default_rng(seed).uniform(0.5, 4, shape).astype(np.float32)


@given(seeds, st.floats(0.05, 50))
@settings(deadline=None, max_examples=30)
def test_scale_from_depth_whatever_a_third_of_the_pixels_say(seed, scale):
    model, rng = depth(seed), np.random.default_rng(seed)
    true = model * np.float32(scale)
    true[rng.uniform(size=true.shape) < 0.15] *= 5
    true[rng.uniform(size=true.shape) < 0.2] = rng.choice([0, np.nan, np.inf, -1])
    model[rng.uniform(size=true.shape) < 0.1] = np.nan
    found = scale_from_depth(model, true)
    assert found.metric
    assert found.metres_per_unit == pytest.approx(scale, rel=1e-5)
    assert found.pixels == int((np.isfinite(model) & np.isfinite(true) & (true > 0)).sum())


def test_only_valid_pixels_count_and_large_maps_are_sampled():
    model = depth(shape=(500, 800))
    true, valid = 2 * model, np.ones(model.shape, dtype=bool)
    true[:300], valid[:300] = 7, False
    found = scale_from_depth(model, true, valid)
    assert found.metres_per_unit == pytest.approx(2)
    assert found.pixels <= 131072
    assert scale_from_depth(model, true).metres_per_unit != pytest.approx(2, rel=0.01)


def test_depth_that_does_not_tell():
    assert scale_from_depth(depth(), np.zeros((3, 48, 64))).reason == (
        "only 0 of 9216 pixels have a metric depth, 500 are needed"
    )
    unrelated = scale_from_depth(depth(), depth(1))
    assert not unrelated.metric
    assert "their ratio varies by" in unrelated.reason
    assert np.isnan(unrelated.metres_per_unit)
    with pytest.raises(InputError, match=r"must have one shape, got \[3, 48, 64\], \[3, 64\]; resize"):
        scale_from_depth(depth(), depth(shape=(3, 64)))
    with pytest.raises(InputError, match=r"and \[2\]"):
        scale_from_depth(depth(), depth(), np.ones(2, dtype=bool))
