"""The configurations in config/: every key is known, every value in range."""

from pathlib import Path

import pytest

from gen3r_core.training.flow_parts import TransformerOptions
from gen3r_core.training.geometry_adapter import GeometryAdapterOptions
from gen3r_core.training.options import read_options
from gen3r_core.training.run import STAGES, read_config
from gen3r_core.training.vggt import VGGTOptions
from gen3r_core.training.video_vae import VideoVAEOptions

CONFIG = Path(__file__).parents[2] / "config"
OPTIONS = dict(zip(STAGES, (VideoVAEOptions, VGGTOptions, GeometryAdapterOptions, TransformerOptions), strict=True))


@pytest.mark.parametrize(
    ("path", "data"),
    [(path, "worlds") for path in sorted((CONFIG / "gen3r_small").glob("*.json"))]
    + [(path, "folder") for path in sorted((CONFIG / "kl_alignment").glob("*.json"))],
    ids=lambda value: f"{value.parent.name}-{value.stem}" if isinstance(value, Path) else value,
)
def test_it_is_read(path, data):
    config = read_config(path.stem, path, data=data)
    options = read_options(OPTIONS[path.stem], config.model, path.stem)
    clips = getattr(options, "pool_clips", 0)
    assert not clips or clips % options.pool_batch == 0
