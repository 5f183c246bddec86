"""The quick look at checkpoints agrees with the thorough one, and needs no PyTorch."""

import json
import struct
import subprocess
import sys

import pytest
from published_checkpoint import write_published

from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.checkpoint.packaged import PACKAGED, packaged_folder
from gen3r_core.checkpoint.precheck import MANIFEST, CheckpointFacts, check_checkpoint, check_length
from gen3r_core.errors import CheckpointError


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("precheck") / "checkpoint")


@pytest.fixture
def own(tmp_path):
    """A folder of our layout with one file."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"12345")
    manifest = {
        "format": "gen3r",
        "format_version": 1,
        "files": {"weights.bin": {"bytes": 5, "sha256": "0"}},
        "defaults": {"steps": 8, "guidance": 1.5, "geometry": "frames"},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_a_whole_published_checkpoint_passes(published):
    facts = CheckpointFacts("checkpoint", packaged=False, steps=50, guidance=5.0, geometry="latents")
    assert check_checkpoint(published) == facts
    assert open_checkpoint(published).root == published


def test_ours_says_what_suits_it(own):
    facts = CheckpointFacts("own", packaged=False, steps=8, guidance=1.5, geometry="frames")
    assert check_checkpoint(str(own)) == facts
    (own / MANIFEST).write_text(json.dumps({"defaults": {"geometry": "pictures"}}))
    with pytest.raises(CheckpointError, match=r"gen3r\.json is damaged \('pictures' is not a valid GeometrySource\)"):
        check_checkpoint(own)


def test_a_missing_folder_and_one_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        check_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("named", [None, PACKAGED])
def test_the_packaged_model(named):
    if (packaged_folder() / MANIFEST).is_file():
        assert check_checkpoint(named).name == PACKAGED
        assert check_checkpoint(named).packaged
    else:
        with pytest.raises(CheckpointError, match="came without the weights"):
            check_checkpoint(named)


def test_files_that_the_manifest_lists(own):
    (own / "weights.bin").write_bytes(b"123")
    with pytest.raises(CheckpointError, match="has 3 bytes instead of 5"):
        check_checkpoint(own)
    (own / "weights.bin").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        check_checkpoint(own)
    (own / MANIFEST).write_text("[1]")
    with pytest.raises(CheckpointError, match="is damaged"):
        check_checkpoint(own)


def test_weights_that_are_cut_off(published, tmp_path):
    whole = next(published.rglob("*.safetensors")).read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole)
    check_length(path)
    for kept, words in ((len(whole) - 1, "cut off"), (20, "no safetensors"), (3, "no safetensors")):
        path.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=words):
            check_length(path)
    path.write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(CheckpointError, match="no safetensors"):
        check_length(path)


def test_it_needs_no_pytorch():
    source = "import sys, gen3r_core.checkpoint.precheck; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
