"""Anonymous memory while loading and converting a checkpoint of about 250 MiB, measured from outside."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from anonymous_memory import Anonymous, measure
from published_checkpoint import OUR_NAMES, tiny_configs, write_published
from safetensors.torch import load_file

from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.checkpoint.loading import build_empty

MIB = 2**20
PREPARE = """
import tempfile, torch
from pathlib import Path
from published_checkpoint import write_published
from gen3r_core.checkpoint import convert
from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.pipeline import Gen3RPipeline

with tempfile.TemporaryDirectory() as folder:  # a tiny one first: lazy imports do not count
    tiny = write_published(Path(folder) / "tiny")
    convert.convert_checkpoint(open_checkpoint(tiny), Path(folder) / "own", dtype=torch.bfloat16)
    Gen3RPipeline.from_pretrained(Path(folder) / "own", dtype=torch.float32)
    convert.convert_checkpoint(open_checkpoint(tiny), Path(folder) / "int8", dtype=torch.int8)
    Gen3RPipeline.from_pretrained(Path(folder) / "int8", dtype=torch.bfloat16)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> dict[str, Path]:
    """The same weights as safetensors, as pickles of today and as pickles of before torch 1.6."""
    configs = tiny_configs()
    configs["transformer"] |= {"dim": 512, "ffn_dim": 2048, "num_heads": 8, "text_dim": 1024, "image_dim": 256}
    configs["text_encoder"] |= {"dim": 1024, "dim_attn": 1024, "dim_ffn": 2048, "num_heads": 8}
    configs["clip_image_encoder"] |= {"vision_dim": 256, "vision_heads": 4}
    configs["vggt"] |= {"embed_dim": 256}
    configs["geo_adapter"] |= {"input_dim": 2560, "output_dim": 2560}
    root = tmp_path_factory.mktemp("large")
    folders = {"safetensors": write_published(root / "safetensors", configs=configs)}
    for kind in ("pth", "legacy"):
        folders[kind] = shutil.copytree(folders["safetensors"], root / kind)
        for file in list(folders[kind].glob("*/*.safetensors")):
            torch.save(load_file(file), file.with_suffix(".pth"), _use_new_zipfile_serialization=kind == "pth")
            file.unlink()
    folders["int8"] = root / "int8"
    convert_checkpoint(open_checkpoint(folders["safetensors"]), folders["int8"], dtype=torch.int8)
    return folders


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each component's weight file."""
    names = OUR_NAMES if (folder / "model_index.json").is_file() else OUR_NAMES.values()
    files = {name: next(f for f in (folder / name).iterdir() if f.name != "config.json") for name in names}
    return {name: file.stat().st_size for name, file in files.items()}


def placed(folder: Path, itemsize: int) -> int:
    """Bytes of the weights that the modules hold."""
    total = 0
    for files in open_checkpoint(folder).components.values():
        plan = build_empty(files).plan
        total += itemsize * sum(math.prod(files.source.infos[key].shape) for key in plan.assignments)
    return total


LOADS = [(kind, dtype) for kind in ("safetensors", "pth", "legacy", "int8") for dtype in ("None", "torch.bfloat16")]
CONVERSIONS = ["safetensors", "legacy", "shards", "quantised"]


@pytest.fixture(scope="module")
def measured(large, tmp_path_factory) -> dict[tuple[str, str], Anonymous]:
    """All cases, one after another in one process."""
    root = tmp_path_factory.mktemp("own")
    statements = {
        (kind, dtype): f"result = Gen3RPipeline.from_pretrained({str(large[kind])!r}, dtype={dtype})"
        for kind, dtype in LOADS
    }
    for kind in CONVERSIONS:
        source, limit = large.get(kind, large["safetensors"]), 2**31 if kind in large else 8 * MIB
        dtype = "torch.int8" if kind == "quantised" else "torch.bfloat16"
        statements[kind, "convert"] = f"""
convert.SHARD_BYTES = {limit}
convert.convert_checkpoint(open_checkpoint({str(source)!r}), Path({str(root / kind)!r}), dtype={dtype})
"""
    results = dict(zip(statements, measure(PREPARE, list(statements.values())), strict=True))
    assert len(list((root / "shards" / "text_encoder").glob("*-of-*.safetensors"))) > 3
    assert (root / "safetensors" / "text_encoder" / "model.safetensors").stat().st_size > 30 * MIB
    return results


def report(seen: Anonymous, stays: int, folder: Path, what: str) -> tuple[int, int]:
    """Print the figures; returns what was needed for a while, and the largest component, in bytes."""
    largest = max(sizes(folder).values())
    print(
        f"{what}: files {sum(sizes(folder).values()) / MIB:.0f} MiB, largest {largest / MIB:.0f} MiB; grew by "
        f"{(seen.peak - seen.before) / MIB:.0f} MiB, of which {stays / MIB:.0f} MiB stay; "
        f"above that {seen.passing(stays) / MIB:.1f} MiB"
    )
    return seen.passing(stays), largest


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), LOADS)
def test_loading(large, measured, kind, dtype):
    stays = 0  # kept types stay in the mapped file
    if dtype != "None":
        stays = placed(large[kind], 2)
    elif kind in ("legacy", "int8"):
        stays = placed(large[kind], 4)
    passing, largest = report(measured[kind, dtype], stays, large[kind], f"loading {kind} as {dtype}")
    # What is mapped takes a tensor at a time; a file that cannot be mapped lies in memory as a whole.
    assert passing <= (1.2 if kind == "legacy" else 0.5) * largest


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_converting(large, measured, kind):
    folder = large.get(kind, large["safetensors"])
    passing, largest = report(measured[kind, "convert"], 0, folder, f"converting {kind}")
    assert passing <= 1.2 * largest
    if kind in ("shards", "quantised"):
        assert passing <= 24 * MIB  # a shard of 8 MiB, and the tensor that is being cast or quantised
