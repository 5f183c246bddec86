"""The generators of published keys, on which the checkpoint tests stand, against the full-size manifests."""

from __future__ import annotations

import json

import golden
import pytest
from published_checkpoint import SHAPES

pytestmark = [pytest.mark.parity, golden.requires_golden]


def _manifests() -> list[str]:
    folder = golden.FOLDER / "manifests"
    return sorted(p.stem for p in folder.glob("*.json") if "keys" in json.loads(p.read_text())) or ["absent"]


@pytest.mark.parametrize("manifest", _manifests())
def test_generated_keys_and_shapes_equal_the_manifest(manifest: str) -> None:
    content = json.loads((golden.FOLDER / "manifests" / f"{manifest}.json").read_text())
    name = next(folder for folder in SHAPES if manifest.startswith(folder))
    generated = {key: list(shape) for key, shape in SHAPES[name](content["config"]).items()}
    assert generated == {key: shape for key, (shape, _dtype) in content["keys"].items()}
    assert generated
