"""The one place of attention: choosing its kernel, and what happens where a kernel cannot run."""

import threading

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock
from torch._subclasses.fake_tensor import FakeTensorMode

from gen3r_core.errors import DeviceError
from gen3r_core.models import flash4
from gen3r_core.models.attention import AttentionKernel, active_kernel, attention, kernel_preferred, kernel_scope

ON_A_CPU = (AttentionKernel.AUTO, AttentionKernel.FLASH, AttentionKernel.MATH)
NOT_ON_A_CPU = (AttentionKernel.CUDNN, AttentionKernel.EFFICIENT)


def tensors(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 8, generator=draw).to(dtype) for length in (5, 7, 7)]


def by_hand(query, key, value):
    scores = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ value.double()


@pytest.mark.parametrize("kernel", ON_A_CPU)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_every_kernel_computes_the_same(kernel, dtype, limit):
    inputs = tensors(dtype)
    with kernel_scope(kernel):
        result = attention(*inputs)
    assert result.dtype == dtype
    assert float((result.double() - by_hand(*inputs)).abs().max()) < limit
    with kernel_scope("math"):
        assert float((result - attention(*inputs)).abs().max()) < limit


def test_scopes_nest_and_are_left_again():
    assert active_kernel() is AttentionKernel.AUTO
    with kernel_scope("math"):
        assert active_kernel() is AttentionKernel.MATH
        with kernel_scope(AttentionKernel.FLASH):
            assert active_kernel() is AttentionKernel.FLASH
        assert active_kernel() is AttentionKernel.MATH
        with kernel_scope():
            assert active_kernel() is AttentionKernel.AUTO
    assert active_kernel() is AttentionKernel.AUTO


def test_a_scope_is_left_when_something_fails_in_it():
    with pytest.raises(KeyError), kernel_scope("math"):
        raise KeyError
    assert active_kernel() is AttentionKernel.AUTO
    with pytest.raises(DeviceError), kernel_scope("cudnn"):
        attention(*tensors())
    assert active_kernel() is AttentionKernel.AUTO
    attention(*tensors())  # torch's own preference is back as well


def test_a_scope_sets_what_torch_prefers():
    with kernel_scope("math"):
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    with kernel_scope("flash"):
        assert torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()


def test_other_threads_keep_their_kernel():
    seen = []
    with kernel_scope("math"):
        thread = threading.Thread(target=lambda: seen.append(active_kernel()))
        thread.start()
        thread.join()
    assert seen == [AttentionKernel.AUTO]


def test_an_unknown_kernel():
    message = "attention kernel 'fast' is unknown; choose one of: auto, flash4, cudnn, flash, efficient, math"
    with pytest.raises(DeviceError, match=message), kernel_scope("fast"):
        pass


@pytest.mark.parametrize("kernel", NOT_ON_A_CPU)
def test_a_kernel_that_cannot_run(kernel):
    message = (
        rf"kernel '{kernel}' cannot run on cpu with torch.float32 and head size 8; .*--attention \(auto always works"
    )
    with kernel_scope(kernel), pytest.raises(DeviceError, match=message):
        attention(*tensors())


def test_a_kernel_that_cannot_run_inside_of_diffusers():
    block = WanAttentionBlock(8)
    message = "attention kernel 'cudnn' cannot run here; choose another with --attention"
    with pytest.raises(DeviceError, match=message), kernel_scope("cudnn"):
        block(torch.zeros(1, 8, 1, 2, 2))


@pytest.mark.parametrize("kernel", ON_A_CPU)
def test_a_preferred_kernel(kernel):
    inputs = tensors()
    with kernel_preferred(kernel, torch.device("cpu")):
        assert active_kernel() is kernel
        found = attention(*inputs)
        assert torch.backends.cuda.math_sdp_enabled()  # what it cannot run goes there
        assert torch.backends.cuda.flash_sdp_enabled() is (kernel is not AttentionKernel.MATH)
    assert float((found.double() - by_hand(*inputs)).abs().max()) < 1e-5
    assert active_kernel() is AttentionKernel.AUTO


@pytest.mark.parametrize("kernel", NOT_ON_A_CPU)
def test_a_preference_that_is_none(kernel):
    message = f"attention kernel '{kernel}' cannot run on a CPU; choose another with --attention"
    with pytest.raises(DeviceError, match=message), kernel_preferred(kernel, torch.device("cpu")):
        pass
    with kernel_preferred(kernel, torch.device("cuda")):  # asks nothing of a GPU that is not there
        assert float((attention(*tensors()).double() - by_hand(*tensors())).abs().max()) < 1e-5


def test_other_errors_pass():
    query, key, value = tensors()
    with kernel_scope("math"), pytest.raises(RuntimeError, match=r"size|shape|match"):
        attention(query, key[..., :4], value)
    with pytest.raises(RuntimeError, match="another thing"), kernel_scope("math"):
        raise RuntimeError("another thing")


def test_flash_attention_4_is_missed_by_name():
    """Only a GPU runs it, so only its refusal can be seen here."""
    why = "the package flash-attn-4 is missing" if not flash4.installed() else "the GPU is not"
    if flash4.usable():
        pytest.skip("flash-attn-4 can run here")
    with pytest.raises(DeviceError, match=why), kernel_scope("flash4"):
        pass
    assert active_kernel() is AttentionKernel.AUTO


@pytest.mark.parametrize(
    ("shape", "dtype", "suited"),
    [
        ((1, 1, flash4.LEAST_KEYS, 64), torch.bfloat16, True),
        ((1, 1, flash4.LEAST_KEYS - 1, 64), torch.bfloat16, False),
        ((1, 1, flash4.LEAST_KEYS, 72), torch.bfloat16, False),
        ((1, 1, flash4.LEAST_KEYS, 64), torch.float32, False),
    ],
)
def test_what_flash_attention_4_takes(shape, dtype, suited):
    class OnAGPU(torch.Tensor):
        is_cuda = True

    query = torch.empty(shape, dtype=dtype, device="meta").as_subclass(OnAGPU)
    with torch.no_grad():
        assert flash4.suits(query, query) == suited
    assert not flash4.suits(query, query)
    with torch.no_grad():
        assert not flash4.suits(torch.empty(shape, dtype=dtype, device="meta"), query)


def test_flash_attention_4_in_a_graph():
    """Its operator stands in for a result of the right shape where nothing is computed."""
    query, key = torch.empty(2, 9, 3, 64, device="meta"), torch.empty(2, 5, 3, 64, device="meta")
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(one) for one in (query, key, key)]
        assert flash4.flash4(*fakes).shape == query.shape
