"""What holds for every stage's loss: nothing waits for the device, and 16-bit autocast gives about the same."""

import pytest
import torch
from room_clips import ADAPTER_TINY, FLOW_TINY, VGGT_TINY, room_batch, write_parts
from torch.utils._python_dispatch import TorchDispatchMode

from gen3r_core.training import geometry_adapter, transformer, vggt
from gen3r_core.training.clip_pool import EncodedBatch

SIZES = {"vggt": (56, 56), "geometry_adapter": (56, 56), "transformer": (112, 112)}

# Operations after which a GPU's host has to know numbers: `.item()`, `if tensor`, and results of unknown size.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero", "bincount", "_index_put")


class Waits(TorchDispatchMode):
    """Collects the operations of a block that would make the host wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name.startswith(WAITING) or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    parts = str(write_parts(tmp_path_factory.mktemp("parts")))
    own = {
        "vggt": vggt.from_config({"config": VGGT_TINY}, "cpu"),
        "geometry_adapter": geometry_adapter.from_config(
            {"config": ADAPTER_TINY, "vggt": parts, "video_vae": parts}, "cpu"
        ),
        "transformer": transformer.from_config(
            FLOW_TINY | {"checkpoint": parts, "captions": f"{parts}/captions.txt"}, "cpu"
        ),
    }
    own["transformer"].module.transformer.proj_out.weight.data.normal_(
        std=0.05, generator=torch.Generator().manual_seed(0)
    )
    return own


def batch(name):
    return room_batch(0, 2, 5, SIZES[name])


def test_the_detector_detects():
    values = torch.arange(3.0)
    for wait in (lambda: values.sum().item(), lambda: values[values > 1], lambda: bool(values[0] > 1), values.nonzero):
        with Waits() as waits:
            wait()
        assert waits.found
    with Waits() as waits:
        values[torch.tensor([0, 1])].sum()
    assert not waits.found


@pytest.mark.parametrize("name", SIZES)
def test_no_step_waits_for_the_device(stages, name):
    own, clips, generator = stages[name], batch(name), torch.Generator().manual_seed(0)
    if name == "transformer":
        clips = EncodedBatch(
            clips.colors, clips.depth, clips.intrinsics, clips.T_world_cam, clips.captions, own.encoder.encode(clips)
        )
    own.loss(clips, 0, generator)  # what is made once may wait
    with Waits() as waits:
        loss, _ = own.loss(clips, 0, generator)
        loss.backward()
    assert waits.found == []


def test_encoding_does_not_wait(stages):
    clips = batch("transformer")
    stages["transformer"].encoder.encode(clips)
    with Waits() as waits:
        stages["transformer"].encoder.encode(clips)
    assert waits.found == []


@pytest.mark.parametrize("name", SIZES)
def test_autocast_gives_about_the_same_and_float32_gradients(stages, name):
    own, clips = stages[name], batch(name)
    own.module.zero_grad()
    exact, _ = own.loss(clips, 0, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, figures = own.loss(clips, 0, torch.Generator().manual_seed(0))
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
    assert all(torch.isfinite(value) for value in figures.values())
    gradients = [parameter.grad for parameter in own.module.parameters() if parameter.grad is not None]
    assert gradients
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("name", SIZES)
def test_validation_runs_under_autocast(stages, name):
    with torch.autocast("cpu", torch.bfloat16):
        figures = stages[name].validate(batch(name))
    assert figures


@pytest.mark.gpu
@pytest.mark.parametrize("name", SIZES)
def test_no_step_waits_on_a_gpu(tmp_path, name):
    """The driver's own word for it, with bf16 autocast."""
    parts = str(write_parts(tmp_path))
    values = {
        "vggt": {"config": VGGT_TINY},
        "geometry_adapter": {"config": ADAPTER_TINY, "vggt": parts, "video_vae": parts},
        "transformer": FLOW_TINY | {"checkpoint": parts, "captions": f"{parts}/captions.txt"},
    }[name]
    own = {"vggt": vggt, "geometry_adapter": geometry_adapter, "transformer": transformer}[name].from_config(
        values, "cuda"
    )
    clips, generator = batch(name).to("cuda"), torch.Generator("cuda").manual_seed(0)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss, _ = own.loss(clips, 0, generator)
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert bool(torch.isfinite(loss))
