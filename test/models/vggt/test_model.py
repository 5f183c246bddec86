from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import init_empty_weights

from gen3r_core.errors import InputError
from gen3r_core.models.vggt import VGGT, VGGTConfig, VGGTPrediction, pack_tokens, unpack_tokens


def tensors(prediction: VGGTPrediction) -> dict[str, torch.Tensor]:
    names = [field.name for field in dataclasses.fields(prediction) if field.name != "pose_iterations"]
    return {name: getattr(prediction, name) for name in names}


@pytest.mark.parametrize("size", [(14, 14), (14, 70), (70, 14), (28, 42), (42, 42), (56, 56)])
@pytest.mark.parametrize("frames", [1, 3])
def test_any_multiple_of_the_patch_size(model, size, frames):
    predicted = model(torch.rand(1, frames, 3, *size))
    assert predicted.pose_encoding.shape == (1, frames, 9)
    assert predicted.depth.shape == predicted.depth_confidence.shape == (1, frames, *size)
    assert predicted.points.shape == (1, frames, *size, 3)
    assert predicted.points_confidence.shape == (1, frames, *size)
    assert len(predicted.pose_iterations) == model.config.camera_head.num_iterations
    assert predicted.pose_encoding is predicted.pose_iterations[-1]
    for values in tensors(predicted).values():
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
    assert (predicted.depth > 0).all()
    assert (predicted.depth_confidence >= 1).all()
    assert (predicted.points_confidence >= 1).all()


def test_frames_after_the_first_are_interchangeable(model, images):
    order = [0, 2, 3, 1]
    straight, permuted = tensors(model(images)), tensors(model(images[:, order]))
    for name, values in straight.items():
        torch.testing.assert_close(permuted[name], values[:, order], rtol=1e-3, atol=1e-3)


def test_batch_equals_single(model, images):
    together, alone = tensors(model(images)), tensors(model(images[1:]))
    for name, values in together.items():
        torch.testing.assert_close(values[1:], alone[name], rtol=1e-3, atol=1e-3)


def test_heads_alone_equal_the_whole(model, images):
    whole, tokens = model(images), model.aggregate(images)
    assert torch.equal(model.predict_cameras(tokens)[-1], whole.pose_encoding)
    depth, depth_confidence = model.predict_depth(tokens, (28, 42), frames_per_chunk=3)
    torch.testing.assert_close(depth, whole.depth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(depth_confidence, whole.depth_confidence, rtol=1e-5, atol=1e-5)
    points, points_confidence = model.predict_points(tokens, (28, 42))
    torch.testing.assert_close(points, whole.points)
    torch.testing.assert_close(points_confidence, whole.points_confidence)
    assert (model.patch_size, model.special_tokens) == (14, 4)


def test_without_the_point_head(model, images):
    """What the others say is the same bit for bit."""
    calls = []
    hook = model.point_head.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = [model(images, points=False), model.decode(model.aggregate(images), (28, 42), points=False)]
        assert calls == []
        whole = model(images)
        assert calls == [1]
    finally:
        hook.remove()
    for one in found:
        assert one.points is one.points_confidence is None
        assert torch.equal(one.pose_encoding, whole.pose_encoding)
        assert torch.equal(one.depth, whole.depth)
        assert torch.equal(one.depth_confidence, whole.depth_confidence)


def test_packed_tokens_decode_to_the_same_dense_maps(model, images):
    """The dense heads see the patches, which packing keeps; cameras see the camera token, kept too."""
    whole, tokens = model(images), model.aggregate(images)
    restored = unpack_tokens(pack_tokens(tokens, (2, 3)), model.special_tokens, num_layers=len(tokens))
    decoded = model.decode(restored, (28, 42))
    for name, values in tensors(whole).items():
        torch.testing.assert_close(tensors(decoded)[name], values, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_near(model, fresh_model, images):
    reference, half = tensors(model(images)), tensors(fresh_model.bfloat16()(images.bfloat16()))
    for name, values in reference.items():
        assert half[name].dtype == torch.float32
        error = (half[name] - values).norm() / values.norm()
        assert error < 0.05, f"{name} is off by {error}"


def test_heads_may_be_more_precise_than_the_body(fresh_model, images):
    fresh_model.aggregator.bfloat16()
    tokens = fresh_model.aggregate(images)
    assert tokens[0].dtype == torch.bfloat16
    decoded = fresh_model.decode(tokens, (28, 42))
    as_float = fresh_model.decode([layer.float() for layer in tokens], (28, 42))
    for name, values in tensors(decoded).items():
        assert torch.equal(values, tensors(as_float)[name])


def test_no_state_besides_the_parameters(model):
    assert list(model.buffers()) == []
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("empty", [lambda: torch.device("meta"), lambda: init_empty_weights(include_buffers=False)])
def test_built_empty_and_filled(model, images, config, empty):
    with empty():
        network = VGGT(config)
    assert all(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict(model.state_dict(), assign=True, strict=True)
    for name, values in tensors(model(images)).items():
        assert torch.equal(tensors(network(images))[name], values)


def test_default_is_full_size():
    with torch.device("meta"):
        network = VGGT()
    assert network.config == VGGTConfig()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_190_596_120


def test_a_new_network_is_usable(config, images):
    torch.manual_seed(0)
    predicted = VGGT(config)(images)
    assert all(torch.isfinite(values).all() for values in tensors(predicted).values())


def test_gradients_reach_images_and_all_weights_in_use(fresh_model, images):
    predicted = fresh_model(images[:1].requires_grad_())
    sum(values.sum() for values in tensors(predicted).values()).backward()
    without = {name for name, value in fresh_model.named_parameters() if value.grad is None}
    assert without == {"aggregator.patch_embed.mask_token", "camera_head.empty_pose_tokens"}


@pytest.mark.slow
def test_compiles_into_one_graph(model, images):
    torch.compiler.reset()
    aggregate = torch.compile(model.aggregator, backend="eager", fullgraph=True)
    for compiled, plain in zip(aggregate(images), model.aggregate(images), strict=True):
        torch.testing.assert_close(compiled, plain)
    depth_head = torch.compile(model.depth_head, backend="eager", fullgraph=True)
    tokens = model.aggregate(images)
    torch.testing.assert_close(depth_head(tokens, (28, 42))[0], model.depth_head(tokens, (28, 42))[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_never_waits(fresh_model, images):
    network, on_device = fresh_model.to("cuda", torch.bfloat16), images.cuda()
    network(on_device)  # kernels are chosen on the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        predicted = network(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(predicted.depth).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens[:3], r"need 4 token tensors of shape \[batch, frames, 10, 32\] for 28x42 .* got 3"),
        (lambda tokens: [layer[:, :, 1:] for layer in tokens], r"got 4 of shape \(2, 4, 9, 32\)"),
        (lambda tokens: [layer[..., 1:] for layer in tokens], r"got 4 of shape \(2, 4, 10, 31\)"),
        (lambda tokens: [tokens[0][:1], *tokens[1:]], "must all have one shape"),
        (lambda tokens: [layer[:, :, :5] for layer in tokens], "too few .* check the image size"),
    ],
)
def test_tokens_that_do_not_fit(model, images, change, message):
    tokens = change(model.aggregate(images))
    for use in (model.decode, model.predict_depth, model.predict_points):
        with pytest.raises(InputError, match=message):
            use(tokens, (28, 42))


def test_image_size_that_does_not_fit(model, images):
    with pytest.raises(InputError, match="nearest usable sizes: height 28 and width 28 or 42"):
        model.decode(model.aggregate(images), (28, 41))


@pytest.mark.parametrize(("tokens", "got"), [([], "none"), ([torch.zeros(2, 3, 4)], "(2, 3, 4)")])
def test_camera_tokens_that_do_not_fit(model, tokens, got):
    with pytest.raises(InputError, match=r"\[batch, frames, tokens, 32\], got ") as caught:
        model.predict_cameras(tokens)
    assert str(caught.value).endswith(got)
