"""The generators of published keys, on which the checkpoint tests stand, against the full-size manifests."""

from __future__ import annotations

import golden
import pytest
from published_checkpoint import SHAPES

pytestmark = [pytest.mark.parity, golden.requires_golden]


@pytest.mark.parametrize("manifest", golden.manifests())
def test_generated_keys_and_shapes_equal_the_manifest(manifest: str) -> None:
    content = golden.load_manifest(manifest)
    name = next(folder for folder in SHAPES if manifest.startswith(folder))
    generated = {key: list(shape) for key, shape in SHAPES[name](content["config"]).items()}
    assert generated == {key: shape for key, (shape, _dtype) in content["keys"].items()}
    assert generated
