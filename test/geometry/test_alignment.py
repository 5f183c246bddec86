import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.alignment import Similarity, align_similarity, chamfer_distances, chamfer_metrics
from gen3r_core.geometry.rigid import quaternion_to_matrix


def cloud(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarity(seed=1, scale=2.5):
    R = quaternion_to_matrix(torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return Similarity(R, cloud(seed=seed), torch.tensor(scale, dtype=torch.float64))


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(deadline=None, max_examples=50)
def test_a_known_similarity_is_found(seed, scale):
    source, true = cloud(2, 5, seed=seed), similarity(seed + 1, scale)
    found = align_similarity(source, true.apply(source))
    torch.testing.assert_close(found.rotation, true.rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.translation, true.translation, atol=1e-8 * scale + 1e-9, rtol=1e-9)
    torch.testing.assert_close(found.scale, true.scale)


def test_only_masked_pairs_count():
    source, true = cloud(4, 6), similarity()
    target, mask = true.apply(source), torch.ones(4, 6, dtype=torch.uint8)
    target[0], mask[0] = 1e3, 0
    torch.testing.assert_close(align_similarity(source, target, mask).rotation, true.rotation)
    assert float(align_similarity(source, target).scale) > 10


def test_mirrored_points_get_a_proper_rotation():
    source = cloud(50)
    found = align_similarity(source, source * torch.tensor([1, 1, -1.0]))
    assert torch.linalg.det(found.rotation) == pytest.approx(1)


def test_without_scale():
    source = cloud(20)
    found = align_similarity(source, similarity().apply(source), with_scale=False)
    assert float(found.scale) == 1
    torch.testing.assert_close(found.rotation, similarity().rotation)


def test_scale_is_the_ratio_of_spreads():
    source, target = cloud(30), cloud(30, seed=9) * 3
    ratio = (target - target.mean(0)).norm() / (source - source.mean(0)).norm()
    torch.testing.assert_close(align_similarity(source, target).scale, ratio)


def test_too_few_or_coinciding_points():
    mask = torch.tensor([True, True, False, False])
    few = align_similarity(cloud(4).float(), cloud(4, seed=2).float(), mask)
    assert torch.equal(few.apply(cloud(4).float()), cloud(4).float())
    same = align_similarity(torch.ones(4, 3), cloud(4).float())
    assert float(same.scale) == 1
    assert torch.isfinite(same.rotation).all()


def test_chamfer_by_hand():
    source = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    target = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 0]])
    assert chamfer_distances(source, target) == (0, pytest.approx(2 / 3))
    assert chamfer_distances(source, target, squared=True) == (0, pytest.approx(4 / 3))


def test_chamfer_metrics_of_a_similar_cloud_are_zero():
    target, mask = cloud(3, 4, 5), torch.ones(3, 4, 5, dtype=torch.bool)
    found = chamfer_metrics(similarity().apply(target), target, mask)
    assert found.chamfer == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.aligned, target)


def test_chamfer_metrics_relations():
    source, target = cloud(2, 6, 7), cloud(2, 6, 7, seed=4)
    mask = target[..., 0] > -1
    plain = chamfer_metrics(source, target, mask)
    small = chamfer_metrics(source, target, mask, in_millimetres=True)
    assert small.accuracy == pytest.approx(1000 * plain.accuracy)
    assert small.relative_percent == plain.relative_percent
    assert plain.chamfer == pytest.approx((plain.accuracy + plain.completeness) / 2)
    valid = target[mask]
    diagonal = float((valid.amax(0) - valid.amin(0)).norm())
    assert plain.relative_percent == pytest.approx(100 * plain.chamfer / diagonal)


def test_chamfer_metrics_of_some_frames():
    target, mask = cloud(4, 6, 7), torch.ones(4, 6, 7, dtype=torch.bool)
    found = chamfer_metrics(similarity().apply(target[[3, 1]]), target, mask, frames=[3, 1])
    torch.testing.assert_close(found.aligned, target[[3, 1]])
    assert found.accuracy == pytest.approx(0, abs=1e-12)
    assert found.completeness > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align_similarity(cloud(3), cloud(4)), "must have one shape"),
        (lambda: align_similarity(cloud(3), cloud(3), torch.ones(4)), r"shape \(3,\) as the points have, got \(4,\)"),
        (lambda: chamfer_metrics(cloud(1, 2, 2), cloud(1, 2, 2), torch.ones(2, 2)), r"shape \(1, 2, 2\) as the target"),
        (lambda: chamfer_metrics(cloud(1, 2, 2), cloud(1, 2, 2), torch.zeros(1, 2, 2)), "no valid source point"),
        (lambda: chamfer_distances(cloud(3), torch.full((2, 3), torch.nan)), "2 of 2 target points are NaN"),
        (lambda: chamfer_distances(cloud(3, 1), cloud(3)), r"\[N, 3\], got \(3, 1, 3\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
