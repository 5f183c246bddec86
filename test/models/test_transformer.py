"""The video diffusion transformer: positions, text, cameras, batches."""

import pytest
import torch
from lively import redraw

from gen3r_core.errors import InputError
from gen3r_core.models.attention import attention
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.wan_blocks import SideBySideRotary, TwoContextAttention, rotate_pairs

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "text_len": 10,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "image_dim": 20,
}
FRAMES, ROWS, COLUMNS = 3, 6, 8


@pytest.fixture(scope="module")
def model():
    """Shared by tests: never changed in place."""
    network = CameraTransformer(**SIZES).eval()
    redraw(network)
    return network.requires_grad_(False)


@pytest.fixture
def fresh_model():
    network = CameraTransformer(**SIZES).eval()
    redraw(network)
    return network


@pytest.fixture
def inputs():
    """Two samples; what differs between them is everything."""
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 36, FRAMES, ROWS, COLUMNS, generator=draw),
        "timestep": torch.tensor([730.5, 12.25]),
        "encoder_hidden_states": torch.randn(2, 10, 16, generator=draw),
        "encoder_hidden_states_image": torch.randn(2, 5, 20, generator=draw),
        "camera_latents": torch.randn(2, 24, FRAMES, 8 * ROWS, 8 * COLUMNS, generator=draw),
    }


def sample(inputs, index):
    return {key: value[index : index + 1] for key, value in inputs.items()}


# --- positions -------------------------------------------------------------------------------------------


def test_rotation_depends_on_the_distance_only():
    rope = SideBySideRotary(24, (1, 1, 1))
    cos, sin = rope(torch.zeros(1, 1, 5, 7, 6), side_by_side=False)
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(24, generator=draw) for _ in range(2))
    turned_query, turned_key = (rotate_pairs(x.expand(1, len(cos), 1, 24), cos, sin).view(5, 7, 6, 24)
                                for x in (query, key))  # fmt: skip
    pairs = [((0, 0, 0), (2, 3, 1)), ((1, 2, 4), (3, 5, 5)), ((2, 3, 3), (4, 6, 4))]
    scores = [turned_query[a] @ turned_key[b] for a, b in pairs]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=1e-4, atol=1e-5)
    other = turned_query[0, 0, 0] @ turned_key[3, 3, 1]
    assert abs(float(other - scores[0])) > 1e-2


def test_rotation_is_that_of_its_formula():
    """Channel pair i of an axis turns by position * 10000^(-2i/channels); the axes lie frame, row, column."""
    head_dim, position = 24, (4, 2, 3)
    space = 2 * (head_dim // 6)
    angles = []
    for where, channels in zip(position, (head_dim - 2 * space, space, space), strict=True):
        angles += [where * 10000 ** (-2 * i / channels) for i in range(channels // 2)]
    x = torch.randn(head_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.view_as_real(torch.view_as_complex(x.view(-1, 2)) * torch.exp(1j * torch.tensor(angles).double()))
    tables = SideBySideRotary(head_dim, (1, 1, 1))(torch.zeros(1, 1, 6, 4, 5), side_by_side=False)
    index = (position[0] * 4 + position[1]) * 5 + position[2]
    turned = rotate_pairs(x.float().expand(1, 120, 1, head_dim), *tables)[0, index, 0]
    torch.testing.assert_close(turned, expected.flatten().float(), rtol=1e-5, atol=1e-6)
    assert tables[0].dtype == tables[1].dtype == torch.float32


def test_rotation_keeps_the_type():
    cos, sin = SideBySideRotary(12, (1, 2, 2))(torch.zeros(1, 4, 2, 4, 8))
    assert rotate_pairs(torch.ones(1, 16, 2, 12, dtype=torch.bfloat16), cos, sin).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "grid", [(3, 4, 8), (2, 6, 12), (1, 8, 8), (1, 8, 4)], ids=["wide", "two_squares", "portrait_twice", "narrow"]
)
def test_both_halves_count_columns_from_zero(grid):
    """Also where height and width are equal (a portrait view of twice its width)."""
    rope = SideBySideRotary(12, (1, 2, 2))
    shape = (1, 4, grid[0], 2 * grid[1], 2 * grid[2])
    half = (1, 4, grid[0], 2 * grid[1], grid[2])
    for table, half_table, plain_table in zip(
        rope(torch.zeros(shape)), rope(torch.zeros(half), side_by_side=False),
        rope(torch.zeros(shape), side_by_side=False), strict=True,
    ):  # fmt: skip
        by_cell = table.view(*grid, -1)
        left, right = by_cell.chunk(2, dim=2)
        assert torch.equal(left, right)
        assert torch.equal(left, half_table.view(left.shape))
        assert not torch.equal(table, plain_table)


def test_a_portrait_view_of_twice_its_width_is_still_two_halves(model, inputs):
    """One half is 8 by 4 cells, so the grid of both is as high as wide: equal halves stay equal."""
    half = torch.randn(1, 36, 2, 16, 8, generator=torch.Generator().manual_seed(3))
    rest = sample(inputs, 0) | {"hidden_states": torch.cat((half, half), dim=-1), "camera_latents": None}

    def difference(**options):
        left, right = model(**rest, **options).chunk(2, dim=-1)
        return float((left - right).abs().max())

    assert difference() < 1e-5
    assert difference(side_by_side=False) > 1e-2


# --- text ------------------------------------------------------------------------------------------------


def test_text_is_padded_with_zeros_at_the_end(model):
    prompts = [torch.ones(3, 16), torch.full((10, 16), 2.0), torch.empty(0, 16)]
    padded = model.pad_text(prompts)
    assert padded.shape == (3, 10, 16)
    assert torch.equal(padded[0], torch.cat((torch.ones(3, 16), torch.zeros(7, 16))))
    assert torch.equal(padded[1], prompts[1])
    assert not padded[2].any()


def test_padded_text_equals_text_with_zeros(model, inputs):
    one = sample(inputs, 0)
    text = one.pop("encoder_hidden_states")
    with_zeros = text.clone()
    with_zeros[:, 4:] = 0
    assert torch.equal(
        model(encoder_hidden_states=model.pad_text([text[0, :4]]), **one),
        model(encoder_hidden_states=with_zeros, **one),
    )
    # The padding is attended to: without it the result is another one.
    shorter = CameraTransformer(**SIZES | {"text_len": 4}).eval()
    shorter.load_state_dict(model.state_dict())
    with torch.no_grad():
        alone = shorter(encoder_hidden_states=text[:, :4], **one)
    assert (alone - model(encoder_hidden_states=with_zeros, **one)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(11, 16), (4, 17), (16,), (1, 4, 16)])
def test_text_of_another_shape_is_refused(model, shape):
    with pytest.raises(InputError, match=r"prompt embedding 1 has shape .*at most 10, 16.*made for another checkpoint"):
        model.pad_text([torch.zeros(2, 16), torch.zeros(shape)])


@pytest.mark.parametrize("text_len", [1, 7, 40])
def test_any_text_length(text_len, inputs):
    """The context is split into image and text tokens by the configured length, not by a fixed 512."""
    network = CameraTransformer(**SIZES | {"text_len": text_len}).eval()
    redraw(network)
    one = sample(inputs, 0)
    draw = torch.Generator().manual_seed(2)
    one["encoder_hidden_states"] = torch.randn(1, text_len, 16, generator=draw)
    attended = []
    block = network.blocks[0].attn2
    block.to_k.register_forward_hook(lambda _m, args, _o: attended.append(args[0].shape[1]))
    block.add_k_proj.register_forward_hook(lambda _m, args, _o: attended.append(args[0].shape[1]))
    with torch.no_grad():
        network(**one)
    assert attended == [text_len, 5]


def test_cross_attention_adds_attention_to_text_and_to_image(model):
    """Written out: softmax over the text plus softmax over the image tokens, never one over both."""
    attn = model.blocks[0].attn2
    draw = torch.Generator().manual_seed(0)
    x, text, image = (torch.randn(1, length, 24, generator=draw) for length in (7, 10, 5))

    def heads(y):
        return y.unflatten(-1, (2, 12)).transpose(1, 2)

    query = heads(attn.norm_q(attn.to_q(x)))
    by_text = attention(query, heads(attn.norm_k(attn.to_k(text))), heads(attn.to_v(text)))
    by_image = attention(query, heads(attn.norm_added_k(attn.add_k_proj(image))), heads(attn.add_v_proj(image)))
    expected = attn.to_out[0]((by_text + by_image).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x, torch.cat((image, text), dim=1), None, None), expected)


def test_without_image_projections_all_context_is_text(model):
    class TextOnly:
        heads = 2
        add_k_proj = None

        def __getattr__(self, name):
            return getattr(model.blocks[0].attn2, name)

    x, context = torch.ones(1, 3, 24), torch.randn(1, 10, 24, generator=torch.Generator().manual_seed(0))
    expected = TwoContextAttention(10)(model.blocks[0].attn2, x, torch.cat((torch.zeros(1, 0, 24), context), dim=1))
    without = TwoContextAttention(10)(TextOnly(), x, context)
    assert without.shape == (1, 3, 24)
    # An empty image context contributes nothing.
    torch.testing.assert_close(without, expected.nan_to_num(), rtol=1e-5, atol=1e-6)


def test_masks_are_refused(model):
    x = torch.zeros(1, 3, 24)
    with pytest.raises(InputError, match="attends to all tokens: an attention mask is not supported"):
        TwoContextAttention(10)(model.blocks[0].attn1, x, attention_mask=torch.ones(1, 3))


# --- cameras ---------------------------------------------------------------------------------------------


def test_camera_tokens_computed_before_equal_camera_latents(model, inputs):
    expected = model(**inputs)
    latents = inputs.pop("camera_latents")
    assert torch.equal(model(**inputs, camera_tokens=model.embed_cameras(latents)), expected)
    assert (model(**inputs) - expected).abs().max() > 1e-3  # cameras matter
    one = model.embed_cameras(latents[:1])
    torch.testing.assert_close(
        model(**inputs, camera_tokens=one), model(**inputs, camera_tokens=one.repeat(2, 1, 1, 1, 1))
    )


def test_camera_adapter_is_that_of_its_description(model):
    """Pixel-unshuffle by 8, 2x2 convolution with stride 2, one residual block; written out for each frame."""
    adapter = model.camera_adapter
    latents = torch.randn(2, 24, FRAMES, 32, 48, generator=torch.Generator().manual_seed(0))
    tokens = model.embed_cameras(latents)
    assert tokens.shape == (2, 24, FRAMES, 2, 3)
    for batch in range(2):
        for frame in range(FRAMES):
            cells = latents[batch, :, frame].unflatten(1, (4, 8)).unflatten(3, (6, 8)).permute(0, 2, 4, 1, 3)
            x = adapter.project(cells.reshape(1, 24 * 64, 4, 6))
            expected = x + adapter.residual[2](adapter.residual[0](x).relu())
            torch.testing.assert_close(tokens[batch, :, frame], expected[0], rtol=1e-4, atol=1e-5)


def test_without_an_adapter_cameras_are_refused(inputs):
    network = CameraTransformer(**SIZES, camera_channels=None).eval()
    redraw(network)
    with pytest.raises(InputError, match="no camera adapter: it cannot follow a camera path"), torch.no_grad():
        network(**inputs)
    inputs.pop("camera_latents")
    with torch.no_grad():
        assert network(**inputs).shape == (2, 16, FRAMES, ROWS, COLUMNS)


# --- the whole -------------------------------------------------------------------------------------------


def test_a_batch_equals_its_samples(model, inputs):
    together = model(**inputs)
    assert together.shape == (2, 16, FRAMES, ROWS, COLUMNS)
    for index in range(2):
        torch.testing.assert_close(together[index : index + 1], model(**sample(inputs, index)), rtol=1e-4, atol=1e-5)


def test_every_input_matters(model, inputs):
    expected = model(**inputs)
    for key, value in inputs.items():
        changed = value.clone()
        changed[0] += torch.randn(value[0].shape, generator=torch.Generator().manual_seed(4))
        difference = (model(**inputs | {key: changed}) - expected).abs().amax(dim=(1, 2, 3, 4))
        assert difference[0] > 1e-3, key
        assert difference[1] < 1e-4, key


def test_patches_return_to_their_places(model):
    """The output's patches are unfolded as the input's patch embedding folds them."""
    grid = (2, 3, 4)
    x = torch.randn(2, 24, 1 * 2 * 2 * 16, generator=torch.Generator().manual_seed(0))
    image = model._unpatch(x, grid)
    assert image.shape == (2, 16, 2, 6, 8)
    for frame, row, column, dy, dx, channel in [(0, 0, 0, 0, 0, 0), (1, 2, 3, 1, 0, 5), (1, 0, 2, 0, 1, 15)]:
        token = (frame * 3 + row) * 4 + column
        value = x[1, token, (dy * 2 + dx) * 16 + channel]
        assert image[1, channel, frame, 2 * row + dy, 2 * column + dx] == value


def test_gradient_checkpointing_changes_nothing(fresh_model, inputs):
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            fresh_model.enable_gradient_checkpointing()
        fresh_model.train()
        fresh_model.zero_grad()
        output = fresh_model(**inputs)
        output.square().mean().backward()
        gradient = fresh_model.blocks[0].attn1.to_q.weight.grad.clone()
        results.append((output.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][1].abs().max() > 0


def test_time_embedding_is_that_of_its_formula(model):
    times = torch.tensor([0.0, 3.5, 999.0])
    exponents = torch.arange(8, dtype=torch.float64) / 8
    angles = times.double()[:, None] * 10000.0**-exponents
    layers = model.condition_embedder
    expected = layers.time_embedder(torch.cat((angles.cos(), angles.sin()), 1).float())
    embedding, modulation = model.embed_time(times)
    torch.testing.assert_close(embedding, expected)
    torch.testing.assert_close(
        modulation, layers.time_proj(torch.nn.functional.silu(expected)).view(3, 6, 24), rtol=1e-5, atol=1e-6
    )


# --- branches of guidance --------------------------------------------------------------------------------


def test_branches_share_what_they_have_in_common(model, inputs):
    """Two samples under two prompts at once, against each prompt alone; the first self-attention runs on two."""
    other = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(5))
    contexts = [
        model.embed_context(text, inputs["encoder_hidden_states_image"])
        for text in (inputs["encoder_hidden_states"], other)
    ]
    given = {key: inputs[key] for key in ("hidden_states", "timestep", "camera_latents")}
    alone = torch.cat([model(**given, context=context) for context in contexts])
    sizes = []
    hooks = [
        block.attn1.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0]))) for block in model.blocks
    ]
    try:
        together = model(**given, context=torch.cat(contexts))
    finally:
        for hook in hooks:
            hook.remove()
    assert sizes == [2, 4]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert (alone[:2] - alone[2:]).abs().max() > 1e-3
    seen = []

    def through(tokens, run):
        seen.append(len(tokens))
        return run(tokens)

    torch.testing.assert_close(model(**given, context=torch.cat(contexts), through=through), together)
    assert seen == [4]
