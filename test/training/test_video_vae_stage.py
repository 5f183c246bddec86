"""The stage that trains the video VAE: first weights, loss, learning, statistics and export."""

import json

import pytest
import torch
from training_clips import moving_clips, small_disk

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import ComponentFiles
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.errors import InputError, OutputError
from gen3r_core.models.video_vae import encode_video
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.stage import FinishingStage, PhasedStage, TrainingError
from gen3r_core.training.video_vae import VideoVAELoss, from_config
from gen3r_core.training.video_vae_weights import inflate
from gen3r_core.training.whole_clip import decode_clip, encode_clip

TINY = {
    "base_dim": 8, "decoder_base_dim": 16, "z_dim": 8,
    "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8,
}  # fmt: skip
CPU = torch.device("cpu")


def stage(**options):
    return from_config({"model": TINY, **options}, CPU)


def batch(clips=2, frames=5, size=(16, 16)):
    return moving_clips(clips, frames, size)


def generator():
    return torch.Generator().manual_seed(0)


# --- first weights -------------------------------------------------------------------------------------


def test_from_scratch_the_sizes_are_those_of_the_small_model():
    network = from_config({}, CPU).module
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(7.1e6, rel=0.02)
    assert stage().module.config.decoder_base_dim == 16
    with pytest.raises(InputError, match="model size 'huge' is unknown; choose one of: tiny, small, full"):
        stage(size="huge")


def test_the_first_weights_keep_the_signal_and_depend_on_the_seed():
    first, same, other = stage(seed=1), stage(seed=1), stage(seed=2)
    a, b, c = ([p.detach() for p in each.module.parameters()] for each in (first, same, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    with torch.no_grad():
        mean, logvar = encode_clip(first.module, torch.randn(4, 3, 1, 32, 32, generator=generator()))
        video = decode_clip(first.module, torch.randn(4, 8, 1, 4, 4, generator=generator()))
    assert 0.2 < mean.std() < 2
    assert 0.2 < video.std() < 2
    assert -4.8 < logvar.mean() < -3.2


def test_a_still_clip_decodes_as_its_picture_at_the_start():
    vae = stage().module
    picture = batch(1, 1).colors.transpose(1, 2) * 2 - 1
    with torch.no_grad():
        one = decode_clip(vae, encode_clip(vae, picture)[0])
        nine = decode_clip(vae, encode_clip(vae, picture.expand(-1, -1, 9, -1, -1))[0])
    torch.testing.assert_close(nine, one.expand(-1, -1, 9, -1, -1), rtol=1e-4, atol=1e-5)


def test_inflating_keeps_what_single_frames_taught():
    vae = stage().module
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator()))
    video = batch(1, 9).colors.transpose(1, 2) * 2 - 1
    with torch.no_grad():
        pictures = torch.cat([decode_clip(vae, encode_clip(vae, frame)[0]) for frame in video.split(1, dim=2)], dim=2)
        before = decode_clip(vae, encode_clip(vae, video)[0])
        inflate(vae)
        after = decode_clip(vae, encode_clip(vae, video)[0])
    assert (before - pictures)[:, :, 4::4].abs().max() > 1e-2
    torch.testing.assert_close(after[:, :, ::4], pictures[:, :, ::4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[:, :, 1:5], after[:, :, 4:5].expand(-1, -1, 4, -1, -1), rtol=1e-4, atol=1e-5)


# --- loss ----------------------------------------------------------------------------------------------


def test_the_terms_by_hand():
    subject = stage(loss={"pyramid": 0.1, "edge_levels": 1, "kl": 1e-3})
    video = batch().colors.transpose(1, 2) * 2 - 1
    noise = torch.zeros(2, 8, 2, 2, 2)
    terms = subject.terms(video, noise, None, subject.weights)
    mean, logvar = encode_clip(subject.module, video)
    difference = decode_clip(subject.module, mean) - video
    absolute = difference.abs().mean()
    edges = sum(
        (difference.narrow(dim, 1, difference.shape[dim] - 1) - difference.narrow(dim, 0, difference.shape[dim] - 1))
        .abs()
        .mean()
        for dim in (2, 3, 4)
    )
    kl = 0.5 * (mean**2 + torch.exp(logvar) - 1 - logvar).mean()
    coarse = torch.nn.functional.avg_pool3d(difference, (1, 2, 2))
    assert torch.allclose(terms["absolute"], absolute)
    assert torch.allclose(terms["edges"], edges)
    assert torch.allclose(terms["kl"], kl)
    assert torch.allclose(terms["squared"], (difference**2).mean())
    assert torch.allclose(terms["psnr"], -10 * torch.log10((difference**2).mean() / 4))
    assert terms["pyramid"] > coarse.abs().mean() / 8
    expected = absolute + 0.5 * edges + 1e-3 * kl + 0.1 * terms["pyramid"]
    assert torch.allclose(terms["loss"], expected)


def test_the_loss_takes_all_its_randomness_from_the_generator():
    subject = stage(loss={"latent_noise": 0.05})
    first, _ = subject.loss(batch(), 0, generator())
    torch.manual_seed(5)
    again, figures = subject.loss(batch(), 7, generator())
    other, _ = subject.loss(batch(), 0, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(figures) == {"absolute", "squared", "edges", "kl", "psnr"}
    assert not any(value.requires_grad for value in figures.values())


def test_phases_change_the_loss_and_leave_the_rest_of_it():
    subject = stage(loss={"kl": 1e-3})
    assert isinstance(subject, PhasedStage)
    subject.configure({"squared": 2.0, "absolute": 0.0})
    assert subject.weights == VideoVAELoss(absolute=0.0, squared=2.0, kl=1e-3)
    subject.configure({})
    assert subject.weights == VideoVAELoss(kl=1e-3)


@pytest.mark.slow
def test_the_forward_pass_is_one_graph():
    subject = stage(loss={"pyramid": 0.1})
    video, noise = batch().colors.transpose(1, 2) * 2 - 1, torch.zeros(2, 8, 2, 2, 2)
    compiled = torch.compile(subject.terms, backend="eager", fullgraph=True, dynamic=False)
    terms = compiled(video, noise, None, subject.weights)
    assert torch.allclose(terms["loss"], subject.terms(video, noise, None, subject.weights)["loss"])


# --- learning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "steps", "factor"), [(1, 40, 0.4), (9, 30, 0.6)])
def test_it_learns_a_fixed_batch(frames, steps, factor):
    subject = stage()
    data = batch(2, frames)
    optimizer = torch.optim.AdamW(subject.module.parameters(), lr=2e-3, betas=(0.9, 0.95))
    losses, before = [], subject.validate(data)["psnr"]
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = subject.loss(data, step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < factor * losses[0]
    assert subject.validate(data)["psnr"] > before + 3


def test_gradients_reach_every_parameter():
    subject = stage()
    loss, _ = subject.loss(batch(2, 9), 0, generator())
    loss.backward()
    without = [name for name, p in subject.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_validation_by_frame_goes_through_the_shipped_class():
    subject = stage()
    figures = subject.validate(batch(2, 9))
    assert set(figures) == {"psnr", "psnr_first", "psnr_whole", "psnr_between", "psnr_last"}
    by_share = (figures["psnr_first"] + 2 * figures["psnr_whole"] + 6 * figures["psnr_between"]) / 9
    assert figures["psnr"] == pytest.approx(by_share, rel=1e-5)
    assert set(subject.validate(batch(2, 1))) == {"psnr"}


# --- statistics and export -----------------------------------------------------------------------------


def test_exported_latents_are_normal_and_load_through_the_checkpoint_code(tmp_path):
    subject = stage()
    assert isinstance(subject, FinishingStage)
    subject.finish([batch(2, 5), batch(3, 5, (24, 16))])
    state = {key: value.clone() for key, value in subject.module.state_dict().items()}
    subject.export(tmp_path / "video_vae", state)
    described, stored = (tmp_path / "video_vae" / name for name in ("config.json", "model.safetensors"))
    assert stored.stat().st_mode == described.stat().st_mode
    config = json.loads(described.read_text())
    assert config["latents_mean"] != [0.0] * 8
    files = ComponentFiles(SPECS["video_vae"], tmp_path / "video_vae", "gen3r", config)
    loaded = load_component(files)
    with torch.no_grad():
        means = [
            encode_video(loaded, each.colors.transpose(1, 2) * 2 - 1)[0].transpose(0, 1).flatten(1)
            for each in (batch(2, 5), batch(3, 5, (24, 16)))
        ]
    latents = torch.cat(means, dim=1)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=1, correction=0), torch.ones(8), rtol=1e-3, atol=0)


def test_training_goes_on_from_an_exported_component(tmp_path):
    first = stage(seed=3)
    first.export(tmp_path / "video_vae")
    again = from_config({"initial": str(tmp_path / "video_vae")}, CPU)
    for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.requires_grad
    inflated = from_config({"initial": str(tmp_path), "inflate": True}, CPU)
    assert torch.equal(inflated.module.encoder.conv_in.weight, first.module.encoder.conv_in.weight)


def test_weights_that_are_no_weights_are_not_exported(tmp_path):
    subject = stage()
    state = dict(subject.module.state_dict())
    with pytest.raises(TrainingError, match=r"weights to export differ from the network's in \['quant_conv\.bias'\]"):
        subject.export(tmp_path / "a", {key: value for key, value in state.items() if key != "quant_conv.bias"})
    state["quant_conv.bias"] = torch.full((16,), torch.nan)
    with pytest.raises(TrainingError, match=r"quant_conv\.bias is not finite; go back to an earlier checkpoint"):
        subject.export(tmp_path / "a", state)
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with small_disk(20_000), pytest.raises(OutputError, match=r"cannot write .*(video_vae|model\.safetensors)"):
        stage().export(tmp_path / "video_vae")
    assert list(tmp_path.iterdir()) == []


def test_statistics_need_clips_and_finite_latents():
    subject = stage()
    with pytest.raises(TrainingError, match="cannot be measured without clips"):
        subject.finish([])
    with torch.no_grad():
        subject.module.quant_conv.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="latents are not finite"):
        subject.finish([batch()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": {}}, "unknown option 'modle'; did you mean 'model'"),
        ({"model": {}, "initial": "somewhere"}, "'model' and 'initial' exclude each other"),
        ({"inflate": True}, "'inflate' is for weights from 'initial'"),
        ({"loss": {"edges": -1.0}}, "option 'edges' must be at least 0, got -1"),
        ({"loss": {"absolute": 0.0}}, "does not learn colours"),
        ({"model": {**TINY, "temperal_downsample": [False, True]}}, "two steps in time"),
    ],
)
def test_unsuitable_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        from_config(options, CPU)


def test_unsuitable_clips_are_refused():
    subject = stage()
    with pytest.raises(InputError, match=r"clips of 4k\+1 frames, got 4"):
        subject.loss(batch(1, 4), 0, generator())
    with pytest.raises(InputError, match="in multiples of 8 pixels, got 12x16"):
        subject.loss(batch(1, 5, (12, 16)), 0, generator())


def test_batches_check_their_shapes():
    colors = torch.zeros(2, 5, 3, 8, 8)
    with pytest.raises(InputError, match=r"must be \[B, F, 3, H, W\], not \[2, 5, 8, 8\]"):
        ClipBatch(colors[:, :, 0], None, None, None, ["", ""])
    with pytest.raises(InputError, match=r"depth of a clip batch must be \[2, 5, 8, 8\] .* not \[2, 5, 8\]"):
        ClipBatch(colors, torch.zeros(2, 5, 8), None, None, ["", ""])
    with pytest.raises(InputError, match="of 2 clips has 1 captions"):
        ClipBatch(colors, None, None, None, [""])
    assert (len(batch()), batch().size, batch().device, batch().to("cpu").size) == (2, (16, 16), CPU, (16, 16))
