"""The model in this package: its size, that it opens and runs as any checkpoint, and that a wheel contains it.

Without weights in gen3r_core/small/weights the same is tested with random ones of the same sizes (slow); with them, the
packaged ones are tested and nothing is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import ROOT, gen3r
from PIL import Image

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import MANIFEST
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.checkpoint.loading import build_empty
from gen3r_core.checkpoint.packaged import packaged_folder
from gen3r_core.checkpoint.parts import check_parts
from gen3r_core.io.ply import read_ply
from gen3r_core.io.video import read_video
from gen3r_core.sizes import SIZES, character_tokenizer, random_component
from gen3r_core.training.export import export_component
from gen3r_core.worlds.clips import make_clip

MIB = 2**20
LARGEST_FILE, LARGEST_MODEL = 16 * MIB, 40 * MIB
PACKAGE = ROOT / "gen3r_core" / "small"
has_weights = (packaged_folder() / MANIFEST).is_file()
needs_weights = pytest.mark.skipif(not has_weights, reason="gen3r_core/small/weights is empty: nothing trained yet")


@pytest.fixture(scope="module")
def random_model(tmp_path_factory) -> Path:
    """Random weights of the packaged model's sizes, made by the command that makes the packaged model."""
    root = tmp_path_factory.mktemp("random")
    generator = torch.Generator().manual_seed(0)
    for name, config in SIZES["small"].components.items():
        module = random_component(name, config, device="cpu", dtype=torch.float32, generator=generator)
        export_component(root / "run" / name, name, module)
    character_tokenizer().save(root / "run" / "tokenizer")
    done = gen3r("convert", "--parts", root / "run", "--output", root / "weights", "--dtype", "int8",
                 "--max_shard_size", "16", "--licence", "Apache-2.0")  # fmt: skip
    assert done.code == 0, done.err
    shutil.rmtree(root / "run")
    return root / "weights"


def check_sizes(folder: Path) -> None:
    """Small enough for a repository, whole, and of the sizes that the table says."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= LARGEST_FILE
    assert sum(path.stat().st_size for path in files) <= LARGEST_MODEL
    checkpoint, rows = inspect_checkpoint(folder, verify=True)
    assert {row.name: row.state for row in rows} == dict.fromkeys((*SPECS, "tokenizer", "sums"), "ok")
    assert {row.licence for row in rows if row.name != "sums"} == {"Apache-2.0"}
    size = SIZES["small"]
    assert checkpoint.defaults["num_frames"] == size.num_frames
    assert checkpoint.defaults["image_size"] == list(size.image_size)
    check_parts(checkpoint)
    for name, spec in SPECS.items():
        with torch.device("meta"):
            wanted = spec.config_of(spec.build(size.components[name]))
        found = spec.config_of(build_empty(checkpoint.component(name)).module)
        measured = {"latents_mean", "latents_std"}
        assert {k: v for k, v in found.items() if k not in measured} == {
            k: v for k, v in wanted.items() if k not in measured
        }, name


def check_infer(tmp_path: Path, *named: object) -> None:
    """Two steps of 2view from the first and last picture of a world."""
    clip = make_clip("test", 0, 2, samples=1)
    for name, colors in zip(("first.png", "last.png"), clip.colors, strict=True):
        Image.fromarray((colors * 255).round().byte().numpy()).save(tmp_path / name)
    out = tmp_path / "scene"
    done = gen3r("infer", *named, "--task", "2view", "--prompts", clip.caption, "--frame_path", tmp_path / "first.png",
                 tmp_path / "last.png", "--output_dir", out, "--steps", "2", "--guidance", "1",
                 "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert read_video(out / "rgb.mp4").shape == (17, 224, 224, 3)
    run = json.loads((out / "run.json").read_text())
    assert run["checkpoint"] == (str(named[1]) if named else "gen3r-small")
    assert run["dtype"] == "float32"
    assert len(read_ply(out / "cloud.ply")) > 1000


@pytest.mark.slow
def test_random_weights_of_these_sizes_are_small_enough_and_run(random_model, tmp_path):
    check_sizes(random_model)
    check_infer(tmp_path, "--checkpoint", random_model)


@needs_weights
def test_the_packaged_model_is_small_enough_and_whole():
    check_sizes(packaged_folder())
    files = [path for path in PACKAGE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_MODEL


@needs_weights
@pytest.mark.slow
def test_the_packaged_model_is_what_infer_uses_when_nothing_is_named(tmp_path):
    check_infer(tmp_path)


def test_without_weights_nothing_else_lies_there():
    """A part of a model that nothing marks would be shipped and never found."""
    if not has_weights:
        assert {path.name for path in PACKAGE.iterdir()} <= {"sizes.json", "README.md", ".partial-weights"}


# --- the wheel -------------------------------------------------------------------------------------------

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def test_a_wheel_contains_every_file_of_the_model(tmp_path):
    """Built from a copy, in which a tiny checkpoint stands in where there are no weights yet."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    skipped = shutil.ignore_patterns("__pycache__", ".partial-*")
    for name in ("gen3r_core", "gen3r_ros"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=skipped)
    small = source / "gen3r_core" / "small"
    if not has_weights:
        stand_in(tmp_path / "run", small / "weights")
    (small / "README.md").touch()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = {path.relative_to(source).as_posix(): path for path in small.rglob("*") if path.is_file()}
    assert len(files) > 10
    with zipfile.ZipFile(wheel) as archive:
        inside = {item.filename: item.file_size for item in archive.infolist()}
        archive.extractall(tmp_path / "installed")
    assert {name: inside.get(name) for name in files} == {name: path.stat().st_size for name, path in files.items()}
    installed = tmp_path / "installed" / "gen3r_core" / "small" / "weights"
    assert {row.state for row in inspect_checkpoint(installed, verify=True)[1]} == {"ok"}


def stand_in(run: Path, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, config in SIZES["tiny"].components.items():
        module = random_component(name, config, device="cpu", dtype=torch.float32, generator=generator)
        export_component(run / name, name, module)
    character_tokenizer().save(run / "tokenizer")
    done = gen3r("convert", "--parts", run, "--output", folder, "--dtype", "int8", "--max_shard_size", "0.5")
    assert done.code == 0, done.err
