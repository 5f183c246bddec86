"""The transformer's stage: it learns, every parameter does, draws follow the options, resuming is exact."""

import math
from dataclasses import replace

import pytest
import torch
from room_clips import FLOW_TINY, gradient_report, room_batch, train, write_parts

from gen3r_core.conditioning import Task, known_frame_mask
from gen3r_core.errors import CheckpointError, InputError, OutOfMemoryError
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.placement import Placement
from gen3r_core.models.text_encoder import Tokenizer
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.training import transformer
from gen3r_core.training.clip_pool import EncodedBatch
from gen3r_core.training.components import load_frozen

SIZE = (112, 112)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def make(parts):
    def stage(**values):
        base = FLOW_TINY | {"checkpoint": str(parts), "captions": str(parts / "captions.txt")}
        return transformer.from_config(base | values, "cpu")

    return stage


@pytest.fixture(scope="module")
def clips(parts):
    """Two clips, already encoded."""
    values = {"checkpoint": str(parts), "captions": str(parts / "captions.txt")}
    batch = room_batch(0, 2, 5, SIZE)
    encoded = transformer.from_config(FLOW_TINY | values, "cpu").encoder.encode(batch)
    return EncodedBatch(batch.colors, batch.depth, batch.intrinsics, batch.T_world_cam, batch.captions, encoded)


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Spy:
    """Stands in for the network's forward pass; keeps what it was given and predicts zero."""

    def __call__(self, hidden, timestep, text, image, *, camera_tokens):
        self.hidden, self.timestep, self.text, self.image, self.cameras = hidden, timestep, text, image, camera_tokens
        return torch.zeros_like(hidden[:, :16])


def spied(stage):
    stage._flow = Spy()
    return stage._flow


def test_it_learns_a_batch_and_frozen_parts_stay(make, clips):
    """Forty steps take the flow loss at fixed noise to less than 92 % (most of it is the clips' own variance)."""
    own = make()
    frozen = [weights(m) for m in (own.encoder.teachers.vggt, own.encoder.teachers.video_vae, own.encoder.adapter)]
    before = own.validate(clips)
    train(own, clips, 40, 4e-3)
    after = own.validate(clips)
    assert after["flow"] < 0.92 * before["flow"]
    for task in ("1view", "2view", "allview"):
        assert after[f"flow_{task}"] < before[f"flow_{task}"]
    now = [weights(m) for m in (own.encoder.teachers.vggt, own.encoder.teachers.video_vae, own.encoder.adapter)]
    assert all(same(a, b) for a, b in zip(frozen, now, strict=True))


def test_gradients_reach_every_parameter(make, clips):
    """From the second step on: the output layer begins at zero."""
    own = make(drop_cameras=0.0, drop_text=0.0)
    train(own, clips, 2)
    assert gradient_report(own.module) == ([], [], [])
    others = [own.encoder.teachers.vggt, own.encoder.teachers.video_vae, own.encoder.adapter]
    assert all(parameter.grad is None for module in others for parameter in module.parameters())


def test_resumed_equals_uninterrupted(make, clips):
    whole, first, second = make(), make(), make()
    train(whole, clips, 4)
    _, optimizer = train(first, clips, 2)
    second.module.load_state_dict(first.module.state_dict())
    resumed = torch.optim.AdamW(second.module.parameters(), 1e-3, betas=(0.9, 0.95))
    resumed.load_state_dict(optimizer.state_dict())
    train(second, clips, 2, start=2, optimizer=resumed)
    assert same(weights(whole.module), weights(second.module))
    assert not same(weights(whole.module), weights(first.module))


def test_the_loss_of_a_network_that_says_zero(make, clips):
    """Then it is the mean square of noise minus latents: one, and the mean square of the latents."""
    own = make()
    spied(own)
    losses = []
    for seed in range(20):
        total, figures = own.loss(clips, 0, generator(seed))
        losses.append((float(figures["appearance"]), float(figures["geometry"])))
        assert total == pytest.approx(sum(losses[-1]) / 2)
    encoded = clips.clips
    for index, posterior in enumerate((encoded.appearance, encoded.geometry)):
        expected = 1 + float((posterior[:, 0] ** 2 + posterior[:, 1].exp()).mean())
        assert sum(pair[index] for pair in losses) / 20 == pytest.approx(expected, rel=0.03)
    doubled = make(geometry_weight=2.0)
    spied(doubled)
    total, figures = doubled.loss(clips, 0, generator())
    assert float(total) == pytest.approx(float(figures["appearance"] / 2 + figures["geometry"]))


def test_what_the_network_sees(make, clips):
    """The first 16 channels are on the line from latents to noise at the timestep's level; levels follow the shift."""
    own = make(shift=3.0)
    spy = spied(own)
    tight = replace(clips.clips, appearance=clips.clips.appearance.clone(), geometry=clips.clips.geometry.clone())
    tight.appearance[:, 1] = tight.geometry[:, 1] = -60  # no posterior noise
    tight = replace(clips, clips=tight)
    latents = torch.cat((tight.clips.appearance[:, 0], tight.clips.geometry[:, 0]), dim=-1)
    levels = []
    for seed in range(300):
        if seed < 10:
            own.loss(tight, 0, generator(seed))
            sigma = (spy.timestep / 1000).view(-1, 1, 1, 1, 1)
            noise = (spy.hidden[:, :16] - (1 - sigma) * latents) / sigma
            assert float(noise.std()) == pytest.approx(1, abs=0.1)
            assert abs(float(noise.mean())) < 0.1
        levels.append(own._sigmas[torch.randint(1000, (2,), generator=generator(seed))])
    assert own._sigmas[0] == 1
    # Level u of 1 becomes 3 u / (1 + 2 u); the middle is 0.75.
    assert float(own._sigmas[500]) == pytest.approx(0.75, abs=1e-3)
    assert float(torch.cat(levels).median()) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("task", list(Task))
def test_tasks_follow_their_weights(make, clips, task):
    own = make(tasks=[float(kind is task) for kind in Task])
    spy = spied(own)
    _, figures = own.loss(clips, 0, generator())
    mask = known_frame_mask(task, 5, (14, 14)).expand(2, -1, -1, -1, -1)
    assert torch.equal(spy.hidden[:, 32:], mask)
    assert {name for name, value in figures.items() if value > 0} == {"appearance", "geometry", f"flow_{task.value}"}


def test_all_tasks_are_drawn(make, clips):
    own = make()
    spy = spied(own)
    known = set()
    for seed in range(12):
        own.loss(clips, 0, generator(seed))
        known |= {float(mask.sum()) for mask in spy.hidden[:, 32:]}
    assert len(known) == 3


def test_dropping_text_and_cameras(make, clips):
    encoded = clips.clips
    whole, none, some = (make(drop_text=p, drop_cameras=p) for p in (0.0, 1.0, 0.5))
    spies = [spied(stage) for stage in (whole, none, some)]
    for stage in (whole, none, some):
        stage.loss(clips, 0, generator())
    text = whole._text(encoded, torch.tensor([True, True]))
    empty = whole._text(encoded, torch.tensor([False, False]))
    assert torch.equal(spies[0].text, text)
    assert torch.equal(spies[1].text, empty)
    assert torch.equal(empty[0], empty[1])
    free = spies[1].cameras
    assert torch.equal(free[0], free[1])
    assert not torch.equal(spies[0].cameras[0], free[0])
    seen = [set(), set()]
    for seed in range(12):
        some.loss(clips, 0, generator(seed))
        for clip in range(2):
            seen[0].add(torch.equal(spies[2].text[clip], empty[clip]))
            seen[1].add(torch.equal(spies[2].cameras[clip], free[clip]))
    assert seen == [{True, False}, {True, False}]


def test_the_same_generator_gives_the_same_loss(make, clips):
    own = make()
    own.module.transformer.proj_out.weight.data.normal_(generator=generator())
    losses = [own.loss(clips, step, generator(seed))[0] for step, seed in ((0, 0), (5, 0), (0, 1))]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert torch.isfinite(torch.stack(losses)).all()


def test_raw_clips_are_encoded(make, clips):
    own = make()
    spied(own)
    raw = own.loss(room_batch(0, 2, 5, SIZE), 0, generator())[0]
    torch.testing.assert_close(raw, own.loss(clips, 0, generator())[0], atol=1e-4, rtol=1e-4)


def test_validation_generates(make, clips):
    own = make(validation_clips=2, validation_steps=1)
    clips = replace(clips, clips=replace(clips.clips, has_cameras=torch.tensor([True, False])))
    figures = own.validate(clips)
    names = {"flow", "flow_geometry", "flow_1view", "flow_2view", "flow_allview", "psnr_1view", "psnr_2view"}
    assert set(figures) == names
    assert all(math.isfinite(value) for value in figures.values())
    assert 0 < figures["psnr_1view"] < 40
    again = make().validate(clips)
    assert again == {name: figures[name] for name in again}


def test_validation_that_runs_out_of_memory_leaves_the_networks_where_they_train(make, clips, monkeypatch):
    """A pipeline that goes on at a lower level sends its networks away, which here are those of the training."""
    levels = []

    def generate(pipeline, *_):
        pipeline.placement.change(LEVELS[2])
        levels.append(pipeline.placement)
        raise OutOfMemoryError("no more")

    monkeypatch.setattr(Gen3RPipeline, "generate", generate)
    brought = []

    def bring_back(placement):
        brought.append(placement)

    monkeypatch.setattr(Placement, "bring_back", bring_back)
    with pytest.raises(OutOfMemoryError):
        make(validation_clips=1, validation_steps=1).validate(clips)
    assert brought == levels
    assert len(levels) == 1


def test_validation_of_single_frames_without_cameras(make):
    own = make(validation_clips=1, validation_steps=1)
    figures = own.validate(room_batch(0, 1, 1, SIZE, depth=False, cameras=False))
    assert set(figures) == {"flow", "flow_geometry", "flow_1view", "flow_2view", "flow_allview"}
    assert all(math.isfinite(value) for value in figures.values())


def test_export_and_going_on(make, tmp_path):
    own = make()
    average = {name: value.detach() + 1 for name, value in own.module.named_parameters()}
    own.export(tmp_path / "transformer", average)
    loaded = {name: load_frozen(name, tmp_path, "cpu") for name in ("transformer", "text_encoder", "image_encoder")}
    for name, module in loaded.items():
        expected = getattr(own.module, name).state_dict()
        assert all(torch.equal(value, expected[key] + 1) for key, value in module.state_dict().items())
    tokenizer = Tokenizer.from_folder(tmp_path / "tokenizer")
    caption = room_batch(0, 1, 1, (1, 1)).captions[0]
    assert tokenizer(caption, 40) == own.encoder.tokenizer(caption, 40)
    again = make(
        config=None,
        initial=str(tmp_path),
        captions="",
        text_encoder=str(tmp_path / "text_encoder"),
        text_encoder_config=None,
        image_encoder=str(tmp_path),
        image_encoder_config=None,
    )
    assert same(weights(again.module.transformer), weights(loaded["transformer"]))
    assert all(parameter.requires_grad for parameter in again.module.parameters())
    shared = again.module.text_encoder.model
    assert shared.shared.weight is shared.encoder.embed_tokens.weight


def test_a_transformer_without_cameras(make, clips):
    own = make(config=FLOW_TINY["config"] | {"camera_channels": None})
    losses, _ = train(own, clips, 1)
    assert math.isfinite(losses[0])


def test_gradient_checkpointing_changes_nothing(make, clips):
    gradients = []
    for recompute in (False, True):
        own = make(gradient_checkpointing=recompute)
        own.module.transformer.proj_out.weight.data.normal_(generator=generator())
        own.loss(clips, 0, generator())[0].backward()
        gradients.append(own.module.transformer.patch_embedding.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"droptext": 1}, InputError, "transformer: unknown option 'droptext'; did you mean 'drop_text'"),
        ({"drop_text": 1.5}, InputError, "'drop_text' must be between 0 and 1, got 1.5"),
        ({"tasks": [0, 0, 0]}, InputError, "'tasks' gives no task any weight"),
        ({"tasks": [1, 1]}, InputError, "'tasks' must be a list of 3 values"),
        ({"shift": 0}, InputError, "'shift' must be at least 0.001"),
        ({"camera_scale": "metres"}, InputError, "'camera_scale' is 'metres'; choose one of: vggt, none"),
        ({"pool_batch": 0}, InputError, "'pool_batch' must be at least 1"),
        ({"checkpoint": ""}, InputError, "option 'vggt' is missing: name the folder of the trained vggt"),
        ({"captions": ""}, InputError, "there is no tokenizer; name its folder"),
        ({"train_encoders": False}, InputError, "make new encoders, which have to be trained"),
        ({"initial": "x"}, InputError, "transformer: give either its sizes"),
        ({"config": FLOW_TINY["config"] | {"text_dim": 48}}, CheckpointError, "text encoder: 48 and 32"),
        ({"config": {"layers": 2}}, CheckpointError, "unknown keys"),
        ({"vggt": "/nowhere"}, CheckpointError, "vggt: folder /nowhere does not exist"),
    ],
)  # fmt: skip
def test_wrong_configurations(make, values, error, message):
    with pytest.raises(error, match=message):
        make(**values)


def test_frozen_encoders_need_folders(make):
    values = {"captions": "", "text_encoder_config": None, "image_encoder_config": None, "train_encoders": False}
    with pytest.raises(CheckpointError, match=r"text_encoder: .* is not a checkpoint"):
        make(**values)
    folders = {name: str(make().options.checkpoint) for name in ("vggt", "video_vae", "geometry_adapter")}
    with pytest.raises(InputError, match="option 'text_encoder' is missing: name the folder"):
        make(**values, **folders, checkpoint="")


@pytest.mark.parametrize(("frames", "size"), [(4, SIZE), (5, (56, 60))])
def test_clips_that_do_not_fit(make, frames, size):
    with pytest.raises(InputError, match=r"4k\+1|multiple|does not divide"):
        make().loss(room_batch(0, 1, frames, size), 0, generator())


def test_compiled_as_one_graph(make, clips, monkeypatch):
    graphs = []

    def capture(function):
        def backend(graph, _):
            graphs.append(graph)
            return graph.forward

        return compiled(function, backend=backend, fullgraph=True)

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", capture)
    losses = []
    for own in (make(compile=True), make()):
        own.module.transformer.proj_out.weight.data.normal_(generator=generator())
        losses.append(own.loss(clips, 0, generator())[0])
    torch.testing.assert_close(losses[0], losses[1])
    assert len(graphs) == 1
