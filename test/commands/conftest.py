"""Tiny checkpoints and inputs that all command tests share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import write_cameras, write_clip, write_picture
from published_checkpoint import write_published

from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import MANIFEST, open_checkpoint


@dataclass(frozen=True)
class Inputs:
    """Files to generate from."""

    first: Path
    last: Path
    video: Path
    cameras: Path
    prompts: Path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny random checkpoint as upstream publishes it."""
    return write_published(tmp_path_factory.mktemp("published") / "checkpoint")


@pytest.fixture(scope="session")
def own_checkpoint(tmp_path_factory, checkpoint):
    """The same in our layout, whose defaults are small: 5 frames of 112x112."""
    folder = tmp_path_factory.mktemp("own") / "checkpoint"
    convert_checkpoint(open_checkpoint(checkpoint), folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["defaults"] = {"num_frames": 5, "image_size": [112, 112]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Two images, a clip of 9 frames, 9 cameras, and prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    prompts = folder / "prompts.txt"
    prompts.write_text("a room with a window\na second prompt that is not used\n")
    return Inputs(
        first=write_picture(folder / "first.png", 0),
        last=write_picture(folder / "last.png", 8),
        video=write_clip(folder / "clip.mp4"),
        cameras=write_cameras(folder / "cameras.json"),
        prompts=prompts,
    )
