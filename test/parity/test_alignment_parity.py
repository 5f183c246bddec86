"""Similarity alignment and chamfer metrics against the reference run."""

from itertools import product

import golden
import pytest
import torch

from gen3r_core.geometry import alignment

pytestmark = [golden.requires_golden, pytest.mark.parity]
LIMIT = 1e-5

# What the format's notes say of a sub-case by its name: (z of the source flipped, with scale, only two points).
# A sub-case of another name must agree with one of all combinations.
UMEYAMA = {
    "scale": [(False, True, False)],
    "noscale": [(False, False, False)],
    "reflected": [(True, True, False)],
    "two_points": [(False, True, True)],
}
CHAMFER = {"plain": (False, False, False), "squared": (True, False, False), "mm": (False, True, False)}
CHAMFER["subset"] = (False, False, True)


@pytest.fixture(scope="module", params=golden.cases("functions_eval"))
def case(request):
    return golden.load(request.param)


def _tags(case, prefix):
    found = {key.removeprefix(prefix).split("/")[0] for key in case.outputs if key.startswith(prefix)}
    assert found, f"the case holds no {prefix} sub-case"
    return sorted(found)


def _agree(pairs):
    return all(a.shape == b.shape and golden.difference(a, b) <= LIMIT for a, b in pairs)


def test_similarity_alignment(case):
    source, target, mask = case.inputs["P"], case.inputs["G"], case.inputs["mask"].bool()
    two = torch.zeros_like(mask).flatten()
    two[mask.flatten().nonzero()[:2]] = True
    for tag in _tags(case, "umeyama_"):
        expected = {
            key.split("/")[1]: value for key, value in case.outputs.items() if key.startswith(f"umeyama_{tag}/")
        }
        matches = []
        for flip, with_scale, few in UMEYAMA.get(tag, list(product((False, True), repeat=3))):
            points = source * torch.tensor([1.0, 1.0, -1.0 if flip else 1.0])
            found = alignment.align_similarity(
                points, target, two.view_as(mask) if few else mask, with_scale=with_scale
            )
            actual = {"R": found.rotation, "t": found.translation, "s": found.scale.reshape(1)}
            actual["aligned"] = found.apply(points)
            matches.append(
                _agree([(actual[name], value.reshape(actual[name].shape)) for name, value in expected.items()])
            )
        assert any(matches), f"sub-case {tag} differs"


def test_chamfer_metrics(case):
    source, target, mask = case.inputs["P"], case.inputs["G"], case.inputs["mask"].bool()
    frames = case.meta["settings"]["idx"]
    tags = [tag for tag in _tags(case, "chamfer_") if not tag.endswith("_aligned")]
    for tag in tags:
        matches = []
        for squared, millimetres, subset in [CHAMFER[tag]] if tag in CHAMFER else product((False, True), repeat=3):
            found = alignment.chamfer_metrics(
                source[frames] if subset else source,
                target,
                mask,
                frames=frames if subset else None,
                squared=squared,
                in_millimetres=millimetres,
            )
            actual = torch.tensor([found.accuracy, found.completeness, found.chamfer, found.relative_percent])
            pairs = [(actual, case.outputs[f"chamfer_{tag}"])]
            if f"chamfer_{tag}_aligned" in case.outputs:
                pairs.append((found.aligned, case.outputs[f"chamfer_{tag}_aligned"]))
            matches.append(_agree(pairs))
        assert any(matches), f"sub-case {tag} differs"
