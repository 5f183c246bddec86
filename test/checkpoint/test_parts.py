"""Single trained parts put together to one checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import SCHEDULER_DEFAULTS, open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.checkpoint.parts import check_parts, find_component, gather_parts
from gen3r_core.cli import main
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.jobs import Job, Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.sizes import character_tokenizer, random_pipeline
from gen3r_core.training.export import export_component

RUNS = {"text_encoder": "transformer", "image_encoder": "transformer", "video_vae": "vae"}
"""Where a part's training is; otherwise it is called as the part."""

SIZE = {"num_frames": 5, "image_size": [112, 112]}
USUAL = {"steps": 50, "guidance": 5.0, "geometry": "latents"}


@pytest.fixture(scope="session")
def tiny():
    return random_pipeline("tiny", seed=1)


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory) -> Path:
    """Folders as four trainings leave them; never changed."""
    root = tmp_path_factory.mktemp("trained")
    for name in SPECS:
        run = root / RUNS.get(name, name)
        export_component(run / name, name, getattr(tiny, name))
        (run / "training.json").write_text("{}")
        (run / "checkpoints").mkdir(exist_ok=True)
    character_tokenizer().save(root / "transformer" / "tokenizer")
    (root / "transformer" / "scheduler").mkdir()
    scheduler = SCHEDULER_DEFAULTS | {"shift": 3.0}
    (root / "transformer" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return root


@pytest.fixture
def runs(trained, tmp_path) -> Path:
    """The same for a test that changes something."""
    return shutil.copytree(trained, tmp_path / "runs")


def everything(root: Path) -> list[tuple[str | None, Path]]:
    return [(None, root / name) for name in ("vae", "vggt", "geometry_adapter", "transformer")]


def test_folders_of_trainings_make_a_checkpoint(trained):
    checkpoint = gather_parts(everything(trained), SIZE)
    assert list(checkpoint.components) == list(SPECS)
    for name, files in checkpoint.components.items():
        assert files.path == trained / RUNS.get(name, name) / name
        assert files.layout == "gen3r"
    assert checkpoint.tokenizer == trained / "transformer" / "tokenizer"
    assert checkpoint.scheduler == SCHEDULER_DEFAULTS | {"shift": 3.0}
    assert checkpoint.defaults == SIZE | USUAL
    check_parts(checkpoint)


def test_named_parts_bring_what_belongs_to_them(trained):
    checkpoint = gather_parts(
        [("text_encoder", trained / "transformer" / "text_encoder"), ("transformer", trained / "transformer")], SIZE
    )
    assert list(checkpoint.components) == ["transformer", "text_encoder"]
    assert checkpoint.tokenizer == trained / "transformer" / "tokenizer"
    assert checkpoint.scheduler["shift"] == 3.0
    vae = gather_parts([("video_vae", trained / "vae" / "video_vae"), (None, trained / "vggt" / "vggt")], SIZE)
    assert list(vae.components) == ["video_vae", "vggt"]
    assert vae.tokenizer is None
    assert vae.scheduler == SCHEDULER_DEFAULTS


def test_tokenizer_and_scheduler_may_lie_elsewhere(runs):
    for name in ("tokenizer", "scheduler"):
        (runs / "transformer" / name).rename(runs / name)
    given = [("tokenizer", runs / "tokenizer"), ("scheduler", runs / "scheduler")]
    checkpoint = gather_parts([*everything(runs), *given], SIZE)
    assert checkpoint.tokenizer == runs / "tokenizer"
    assert checkpoint.scheduler["shift"] == 3.0
    with pytest.raises(CheckpointError, match=r"needs its tokenizer, and there is none beside it; .* tokenizer=FOLDER"):
        gather_parts(everything(runs), SIZE)
    with pytest.raises(CheckpointError, match=r"tokenizer: folder .*absent does not exist"):
        gather_parts([*everything(runs), ("tokenizer", runs / "absent")], SIZE)


def test_parts_take_the_place_of_a_checkpoints(trained, converted):
    base = open_checkpoint(converted)
    checkpoint = gather_parts([("vggt", trained / "vggt")], {"num_frames": 9}, base)
    assert checkpoint.component("vggt").path == trained / "vggt" / "vggt"
    assert checkpoint.component("transformer").path == converted / "transformer"
    assert checkpoint.tokenizer == converted / "tokenizer"
    assert checkpoint.scheduler == base.scheduler
    assert checkpoint.defaults == {"num_frames": 9, "image_size": [560, 560], **USUAL}
    alone = gather_parts([("text_encoder", trained / "transformer" / "text_encoder")], {}, base)
    assert alone.tokenizer == trained / "transformer" / "tokenizer"


def test_whole_checkpoints_give_all_they_have(converted, published):
    for root in (converted, published):
        own = open_checkpoint(root)
        checkpoint = gather_parts([(None, root)], SIZE)
        assert {name: files.path for name, files in checkpoint.components.items()} == {
            name: files.path for name, files in own.components.items()
        }
        assert {files.layout for files in checkpoint.components.values()} == {own.layout}
        assert (checkpoint.tokenizer, checkpoint.scheduler) == (own.tokenizer, own.scheduler)


def test_a_text_encoder_without_tokenizer_takes_the_bases(runs, converted):
    shutil.rmtree(runs / "transformer" / "tokenizer")
    checkpoint = gather_parts([("text_encoder", runs / "transformer")], {}, open_checkpoint(converted))
    assert checkpoint.tokenizer == converted / "tokenizer"


def test_what_is_no_part(trained, tmp_path):
    with pytest.raises(InputError, match=r"part 'vgt' is unknown; choose among transformer, .*, tokenizer, scheduler"):
        gather_parts([("vgt", trained / "vggt")], SIZE)
    with pytest.raises(InputError, match=r"vggt is given twice: .*vggt and .*vggt; name one of them"):
        gather_parts([(None, trained / "vggt"), ("vggt", trained / "vggt" / "vggt")], SIZE)
    for path in (tmp_path, tmp_path / "absent", trained):
        with pytest.raises(CheckpointError, match=r"holds no trained part: neither a folder called transformer, "):
            gather_parts([(None, path)], SIZE)
    with pytest.raises(CheckpointError, match=r"vggt: .* is not a checkpoint"):
        gather_parts([("vggt", trained / "vae")], SIZE)


def test_parts_that_do_not_belong_together(runs):
    path = runs / "vggt" / "vggt"
    other = random_pipeline("tiny", seed=2)
    config = other.vggt.config.to_dict() | {"layers": [1, 2, 3], "depth": 4}
    config["dense_head"]["out_channels"] = [8, 8, 8]
    adapter = SPECS["geometry_adapter"].build(
        SPECS["geometry_adapter"].config_of(other.geometry_adapter) | {"token_channels": 128}
    )
    shutil.rmtree(runs / "geometry_adapter")
    export_component(runs / "geometry_adapter" / "geometry_adapter", "geometry_adapter", adapter)
    with pytest.raises(CheckpointError, match=r"belong together \(tokens of geometry adapter and VGGT: 128 and 160\)"):
        check_parts(gather_parts(everything(runs), SIZE))
    check_parts(gather_parts([(None, runs / "geometry_adapter"), ("vggt", path)], SIZE))  # nothing to compare with


def test_a_tokenizer_of_another_text_encoder(runs):
    encoder = SPECS["text_encoder"].build({
        "vocab_size": 50, "hidden_size": 32, "attention_size": 32, "intermediate_size": 64, "num_heads": 2,
        "num_layers": 2,
    })  # fmt: skip
    shutil.rmtree(runs / "transformer" / "text_encoder")
    export_component(runs / "transformer" / "text_encoder", "text_encoder", encoder)
    with pytest.raises(CheckpointError, match=r"knows 98 pieces, the text encoder only 50\. Take both from one train"):
        check_parts(gather_parts(everything(runs), SIZE))


def test_a_damaged_part_is_named(runs):
    weights = runs / "vggt" / "vggt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"vggt.model\.safetensors is truncated"):
        check_parts(gather_parts(everything(runs), SIZE))


def test_a_component_is_found_where_it_was(trained):
    assert find_component("video_vae", trained / "vae").path == trained / "vae" / "video_vae"


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_assembles_and_the_result_generates_as_the_trained_networks_do(trained, tiny, tmp_path, capsys):
    own = tmp_path / "own"
    folders = [str(path) for _, path in everything(trained)[1:]]
    code = main(
        ["convert", "--parts", f"video_vae={trained / 'vae' / 'video_vae'}", *folders, "--output", str(own),
         "--num_frames", "5", "--size", "112"]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert "our layout, 5 frames of 112x112" in capsys.readouterr().out
    _, rows = inspect_checkpoint(own, verify=True)
    assert {row.state for row in rows} == {"ok"}
    assert {row.licence for row in rows if row.name != "sums"} == {"not stated"}
    job = Job(torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)), "1view", "a room")
    sampling = Sampling(steps=2, num_frames=5, size=(112, 112))
    loaded = Gen3RPipeline.from_pretrained(own)
    assert loaded.scheduler["shift"] == 3.0
    tiny_scheduler, tiny.scheduler = tiny.scheduler, loaded.scheduler
    try:
        assert torch.equal(loaded.generate(job, sampling).depth, tiny.generate(job, sampling).depth)
    finally:
        tiny.scheduler = tiny_scheduler


def test_the_command_replaces_one_part(trained, converted, tmp_path, capsys):
    own = tmp_path / "own"
    part = f"image_encoder={trained / 'transformer'}"
    code = main(["convert", str(converted), str(own), "--parts", part, "--licence", "MIT-0"])
    assert code == 0, capsys.readouterr().err
    licences = {row.name: row.licence for row in inspect_checkpoint(own)[1]}
    assert licences["image_encoder"] == "MIT-0"
    assert licences["vggt"] == "CC-BY-NC-4.0"  # still the published one
    assert licences["tokenizer"] == "Apache-2.0"
    # Once more: what is noted stays.
    assert main(["convert", str(own), str(tmp_path / "again"), "--dtype", "int8"]) == 0
    assert licences == {row.name: row.licence for row in inspect_checkpoint(tmp_path / "again")[1]}
    before = load_file(trained / "transformer" / "image_encoder" / "model.safetensors")
    after = load_file(own / "image_encoder" / "model.safetensors")
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "own"], "name a source: a checkpoint folder, or trained parts with --parts"),
        (["--parts", "vggt=x"], "name the destination once: as the second folder, or with --output"),
        (["--parts", "vggt=absent", "--output", "own"], "vggt: folder absent does not exist"),
        (["--parts", "absent", "--output", "own"], "absent holds no trained part"),
        (["--parts", "x=absent", "--output", "own"], "part 'x' is unknown"),
        (["--parts", "a/b=c", "--output", "own"], "a/b=c holds no trained part"),
    ],
)
def test_wrong_command_lines(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
