"""The geometry adapter's stage: it learns, frozen parts stay, alignment pulls, statistics are stored."""

import pytest
import torch
from room_clips import ADAPTER_TINY, VGGT_TINY, gradient_report, room_batch, train, write_parts

from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.models.video_vae import encode_video
from gen3r_core.training import geometry_adapter, vggt
from gen3r_core.training.components import load_frozen
from gen3r_core.training.teachers import Teachers, adapter_posterior

SIZE = (56, 56)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"), adapter=False)


@pytest.fixture
def make(parts):
    def stage(**values):
        base = {"config": ADAPTER_TINY, "vggt": str(parts / "vggt"), "video_vae": str(parts)}
        return geometry_adapter.from_config(base | values, "cpu")

    return stage


def batch(clips=2, **values):
    return room_batch(0, clips, 5, SIZE, **values)


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_a_batch_and_frozen_parts_stay(make):
    """Twelve steps take the loss to less than 60 %; the teachers do not move."""
    own, clips = make(), batch()
    frozen = weights(own.teachers.vggt), weights(own.teachers.video_vae)
    before = own.validate(clips)
    losses, _ = train(own, clips, 12, 4e-3)
    after = own.validate(clips)
    assert sum(losses[-3:]) / 3 < 0.6 * losses[0]
    assert after["token_cosine"] > before["token_cosine"] + 0.1
    assert gradient_report(own.module) == ([], [], [])
    assert same(frozen[0], weights(own.teachers.vggt))
    assert same(frozen[1], weights(own.teachers.video_vae))
    assert all(p.grad is None for p in [*own.teachers.vggt.parameters(), *own.teachers.video_vae.parameters()])


def test_resumed_equals_uninterrupted(make):
    clips = batch(1)
    whole, first, second = make(), make(), make()
    train(whole, clips, 2)
    _, optimizer = train(first, clips, 1)
    second.module.load_state_dict(first.module.state_dict())
    resumed = torch.optim.AdamW(second.module.parameters(), 1e-3, betas=(0.9, 0.95))
    resumed.load_state_dict(optimizer.state_dict())
    train(second, clips, 1, start=1, optimizer=resumed)
    assert same(weights(whole.module), weights(second.module))


def test_the_kl_term_is_a_tenth_of_the_reconstruction(make):
    own, clips = make(alignment_limit=1e6), batch(1)
    total, figures = own.loss(clips, 0, torch.Generator().manual_seed(0))
    reconstruction = (
        figures["tokens"] + figures["camera_tokens"] + 10 * figures["camera"] + 2 * figures["depth"] + figures["points"]
    )
    torch.testing.assert_close(figures["kl"] * figures["kl_weight"], 0.1 * reconstruction)
    torch.testing.assert_close(total.detach(), 1.1 * reconstruction + figures["cosine_distance"])
    assert not any(value.requires_grad for value in figures.values())


def test_alignment_pulls_latents_to_the_video_vaes(make):
    clips = batch(1)
    off = {"camera_weight": 0, "depth_weight": 0, "point_weight": 0, "similarity_weight": 0}
    distances = {}
    for alignment in (True, False):
        own = make(alignment=alignment, alignment_share=10.0, alignment_limit=1e6, **off)
        before = own.validate(clips)["latent_distance"]
        train(own, clips, 5, 1e-2)
        distances[alignment] = own.validate(clips)["latent_distance"] / before
    assert distances[True] < 0.8
    assert distances[True] < 0.8 * distances[False]


@pytest.mark.parametrize("first", [0.0, -4.0])
def test_the_first_posterior_is_as_wide_as_asked_for(make, first):
    own = make(first_logvar=first)
    _, figures = own.loss(batch(1), 0, torch.Generator().manual_seed(0))
    width = torch.tensor(first / 2).exp()
    torch.testing.assert_close(figures["posterior_std"], width, rtol=0.3, atol=0)


def test_weights_are_those_of_the_options(make):
    clips, generator = batch(1), torch.Generator()
    none = {f"{name}_weight": 0 for name in ("token", "camera_token", "camera", "depth", "point", "similarity")}
    for name, figure in (("token", "tokens"), ("camera_token", "camera_tokens"), ("point", "points")):
        own = make(**(none | {f"{name}_weight": 3, "alignment_share": 0}))
        total, figures = own.loss(clips, 0, generator.manual_seed(0))
        torch.testing.assert_close(total.detach(), 3 * figures[figure])


def test_losses_vanish_where_the_adapter_is_perfect(make):
    own, clips = make(), batch(1)
    target = own.teachers.tokens(clips.colors)
    tokens, cameras, distance = own._token_losses(target.packed, target)
    torch.testing.assert_close(torch.stack((tokens, cameras, distance)), torch.zeros(3), atol=1e-5, rtol=0)
    heads = torch.stack(own._head_losses(target.packed, target, SIZE, 0))
    torch.testing.assert_close(heads, torch.zeros(3), atol=1e-5, rtol=0)


def test_chunks_of_frames_and_recomputing_change_nothing_but_memory(make):
    clips = batch(1)
    gradients = []
    for values in ({}, {"frames_per_chunk": 2}, {"frames_per_chunk": 2, "recompute": True}, {"whole_clip": False}):
        own = make(**values)
        loss, _ = own.loss(clips, 0, torch.Generator().manual_seed(0))
        loss.backward()
        gradients.append((loss.detach(), own.module.encoder.reduce.weight.grad))
    for loss, gradient in gradients[1:]:
        torch.testing.assert_close(loss, gradients[0][0], rtol=1e-5, atol=1e-5)
        assert (gradient - gradients[0][1]).abs().max() < 1e-4 * gradients[0][1].abs().max()


def test_validation_figures(make):
    own = make()
    figures = own.validate(batch())
    assert figures["absrel_ratio"] == pytest.approx(figures["absrel_after"] / figures["absrel_before"], rel=1e-5)
    without = own.validate(batch(depth=False, cameras=False))
    assert set(figures) - set(without) == {"absrel_before", "absrel_after", "absrel_ratio"}
    assert -1 <= without["token_cosine"] <= 1
    assert without["token_cosine"] == figures["token_cosine"]


def test_latents_are_measured_and_stored(make, tmp_path):
    """After the export, the posterior of the clips that were measured has mean 0 and deviation 1 in every channel."""
    own = make()
    clips = [room_batch(seed, 1, 5, SIZE) for seed in (1, 2)]
    own.finish(iter(clips))
    own.export(tmp_path / "geometry_adapter")
    loaded = load_frozen("geometry_adapter", tmp_path, "cpu")
    means = torch.cat([loaded.encode(own.teachers.tokens(clip.colors).packed)[0] for clip in clips])
    flat = means.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(dim=1, unbiased=False), torch.ones(16), atol=1e-3, rtol=0)
    # Decoding undoes it: the network itself is the same.
    raw, _ = adapter_posterior(own.module, own.teachers.tokens(clips[0].colors).packed)
    expected = own.module.decoder(own.module.post_quant_conv(raw), (4, 4))
    torch.testing.assert_close(loaded.decode(means[:1], (4, 4)), expected, atol=1e-4, rtol=1e-4)


def test_without_measurement_the_export_keeps_the_configuration(make, tmp_path):
    own = make()
    own.export(tmp_path / "geometry_adapter")
    config = load_frozen("geometry_adapter", tmp_path, "cpu").config
    assert config.latents_mean == (0.0,) * 16
    assert config.latents_std == (1.0,) * 16
    with pytest.raises(InputError, match="there is no clip"):
        own.finish([])


def test_going_on_from_an_export(make, tmp_path):
    own = make()
    own.export(tmp_path / "geometry_adapter")
    again = make(config=None, initial=str(tmp_path))
    assert same(weights(again.module), weights(own.module))
    train(again, batch(1), 1)
    assert gradient_report(again.module) == ([], [], [])


def test_teachers_give_what_the_pipeline_computes(make):
    own, clips = make(), batch()
    video = geometry_adapter.to_video(clips.colors)
    mean, logvar = encode_video(own.teachers.video_vae, video)
    for got, want in zip(own.teachers.video_posterior(video), (mean, logvar), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"4k\+1 frames \(1, 5, 9, ...\), got 4"):
        own.teachers.video_posterior(video[:, :, :4])
    with pytest.raises(InputError, match=r"4k\+1 frames"):
        adapter_posterior(own.module, own.teachers.tokens(clips.colors[:, :4]).packed)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"tokens": 1}, InputError, "geometry_adapter: unknown option 'tokens'"),
        ({"vggt": ""}, InputError, "option 'vggt' is missing: name the folder of the trained vggt"),
        ({"frozen_dtype": "int8"}, InputError, "'frozen_dtype' is 'int8'; choose one of: float32, bfloat16"),
        ({"token_beta": 0}, InputError, "'token_beta' must be at least 1e-06"),
        ({"depth_weight": -1}, InputError, "'depth_weight' must be at least 0"),
        (
            {"config": ADAPTER_TINY | {"token_channels": 80}},
            InputError,
            "'token_channels' is 80, .* VGGT gives 160",
        ),
        ({"video_vae": "/nowhere"}, CheckpointError, "video_vae: folder /nowhere does not exist"),
        ({"config": {"hidden_dims": 8}}, CheckpointError, "unknown keys hidden_dims"),
    ],
)
def test_wrong_configurations(make, values, error, message):
    with pytest.raises(error, match=message):
        make(**values)


def test_frozen_parts_can_be_bfloat16(parts):
    teachers = Teachers.load(parts, parts, "cpu", "bfloat16")
    assert teachers.tokens(batch(1).colors).packed.dtype == torch.bfloat16
    assert teachers.video_posterior(geometry_adapter.to_video(batch(1).colors))[0].dtype == torch.float32


def test_vggt_of_another_size_changes_the_tokens(tmp_path, parts):
    sizes = VGGT_TINY | {"embed_dim": 24, "patch_embed": VGGT_TINY["patch_embed"] | {"embed_dim": 24}}
    vggt.from_config({"config": sizes}, "cpu").export(tmp_path / "vggt")
    values = {"config": ADAPTER_TINY, "vggt": str(tmp_path), "video_vae": str(parts)}
    assert geometry_adapter.from_config(values, "cpu").module.config.token_channels == 240


def test_some_frames_teach_through_the_dense_heads(make):
    """All frames give the mean over the single ones; another step draws another."""
    clips = batch(1)
    target = make().teachers.tokens(clips.colors)
    packed = target.packed + 0.1 * torch.randn(target.packed.shape, generator=torch.Generator().manual_seed(0))
    one = make(dense_frames=1)
    drawn, depths = {}, {}
    for step in range(40):
        frame = int(one._dense_frames(step, target.layers[0]))
        drawn[step] = frame
        if frame not in depths:
            depths[frame] = torch.stack(one._head_losses(packed, target, SIZE, step))
    assert set(drawn.values()) == set(range(5))
    whole = torch.stack(make()._head_losses(packed, target, SIZE, 0))
    torch.testing.assert_close(torch.stack(list(depths.values())).mean(dim=0), whole)


def test_the_layout_of_weights_changes_nothing(make):
    clips = batch(1)
    losses = [own.loss(clips, 0, torch.Generator().manual_seed(0))[0] for own in (make(), make(channels_last=True))]
    torch.testing.assert_close(losses[0], losses[1])


def test_a_floor_keeps_sure_latents_from_counting_alone(make):
    """With a floor of 0 the target's deviation is 1, whatever the video VAE says."""
    clips, own = batch(1), make(alignment_floor=0.0)
    own.teachers.video_posterior = lambda video: (torch.zeros(1, 16, 2, 7, 7), torch.full((1, 16, 2, 7, 7), -20.0))
    _, figures = own.loss(clips, 0, torch.Generator().manual_seed(0))
    mean, logvar = adapter_posterior(own.module, own.teachers.tokens(clips.colors).packed)
    expected = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    torch.testing.assert_close(figures["kl"], expected.detach())
