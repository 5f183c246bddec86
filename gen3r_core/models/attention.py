"""The one place through which attention goes.

:func:`attention` is called by every network of ours; :func:`kernel_scope` also governs
``torch.nn.functional.scaled_dot_product_attention`` inside diffusers and transformers,
because it sets the same backend preference. UMT5 adds a position bias to its scores and
computes them itself (transformers), so only its matrix products are affected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gen3r_core.errors import DeviceError
from gen3r_core.models import flash4


class AttentionKernel(StrEnum):
    """Kernels that can be asked for.

    ``AUTO`` prefers FlashAttention-4 where it is installed, the GPU can run it and the sequence is long (see
    :mod:`gen3r_core.models.flash4`), then cuDNN, then FlashAttention-2, then the memory-efficient kernel, then plain
    mathematics: measured on an H100 at Gen3R's size (``gen3r bench --kernels``), they run at 674, 639 and 354
    TFLOP/s. ``FLASH4`` is ``AUTO`` that refuses to do without the first. A CPU has its own ``FLASH`` and ``MATH``, and
    none of the others.
    """

    AUTO = "auto"
    FLASH4 = "flash4"
    CUDNN = "cudnn"
    FLASH = "flash"
    EFFICIENT = "efficient"
    MATH = "math"


_ANY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_ONLY: dict[AttentionKernel, list[SDPBackend]] = {
    AttentionKernel.AUTO: _ANY,
    AttentionKernel.FLASH4: _ANY,  # what is too short for it
    AttentionKernel.CUDNN: [SDPBackend.CUDNN_ATTENTION],
    AttentionKernel.FLASH: [SDPBackend.FLASH_ATTENTION],
    AttentionKernel.EFFICIENT: [SDPBackend.EFFICIENT_ATTENTION],
    AttentionKernel.MATH: [SDPBackend.MATH],
}

# What torch says where a kernel cannot run: on a GPU, and on a CPU.
_REFUSALS = ("No available kernel", "No viable backend")

# The same for compiled code, which binds the kernel when it is compiled and must be compiled anew for another. As
# torch's own preference it holds for the whole process.
_in_force = [AttentionKernel.AUTO.value]

_ON_A_CPU = (AttentionKernel.AUTO, AttentionKernel.FLASH, AttentionKernel.MATH)

_WITH_FLASH4 = (AttentionKernel.AUTO, AttentionKernel.FLASH4)

# Found out when a scope is entered: a compiler cannot look for packages. Outside of any scope, without.
_flash4_in_force = [False]

_active: ContextVar[AttentionKernel] = ContextVar("gen3r_attention_kernel", default=AttentionKernel.AUTO)


def active_kernel() -> AttentionKernel:
    """The kernel chosen by the innermost :func:`kernel_scope`, ``AUTO`` outside of any."""
    return _active.get()


@contextmanager
def kernel_scope(kernel: AttentionKernel | str = AttentionKernel.AUTO) -> Iterator[None]:
    """Choose the attention kernel for everything that runs inside the ``with`` block.

    Args:
        kernel: one of :class:`AttentionKernel`, or its value.

    Raises:
        DeviceError: the name is not a kernel, or something inside the block (the attention of diffusers
            and transformers included) needs a kernel that cannot run there.
    """
    chosen = _named(kernel)
    with _scope(chosen, _ONLY[chosen]):
        yield


@contextmanager
def kernel_preferred(kernel: AttentionKernel | str, device: torch.device) -> Iterator[None]:
    """Like :func:`kernel_scope`, but what the kernel cannot run goes to another.

    Every network together needs more than one: cuDNN and FlashAttention refuse the autoencoder's single head of 384
    channels, say.

    Args:
        kernel: one of :class:`AttentionKernel`, or its value.
        device: where the networks are.

    Raises:
        DeviceError: the name is not a kernel, or the kernel never runs on such a device.
    """
    chosen = _named(kernel)
    if device.type == "cpu" and chosen not in _ON_A_CPU:
        raise DeviceError(
            f"attention kernel '{chosen.value}' cannot run on a CPU; "
            "choose another with --attention (auto always works)"
        )
    # Plain mathematics runs anything, and a CPU knows no order.
    others = [] if chosen is AttentionKernel.MATH else [each for each in _ANY if each not in _ONLY[chosen]]
    with _scope(chosen, _ONLY[chosen] + others):
        yield


def _named(kernel: AttentionKernel | str) -> AttentionKernel:
    try:
        chosen = AttentionKernel(kernel)
    except ValueError as error:
        names = ", ".join(k.value for k in AttentionKernel)
        raise DeviceError(f"attention kernel {kernel!r} is unknown; choose one of: {names}") from error
    if chosen is AttentionKernel.FLASH4 and not flash4.usable():
        why = "the GPU is not Hopper or Blackwell" if flash4.installed() else "the package flash-attn-4 is missing"
        raise DeviceError(f"attention kernel 'flash4' cannot run here: {why}; choose another with --attention")
    return chosen


@contextmanager
def _scope(chosen: AttentionKernel, backends: list[SDPBackend]) -> Iterator[None]:
    token = _active.set(chosen)
    before = _in_force[0], _flash4_in_force[0]
    _in_force[0], _flash4_in_force[0] = chosen.value, chosen in _WITH_FLASH4 and flash4.usable()
    try:
        with sdpa_kernel(backends, set_priority=True):
            yield
    except RuntimeError as error:
        if not _is_refusal(error):
            raise
        raise DeviceError(
            f"attention kernel '{chosen.value}' cannot run here; choose another with --attention (auto always works)"
        ) from error
    finally:
        _in_force[0], _flash4_in_force[0] = before
        _active.reset(token)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Scaled dot product attention without mask or dropout, scale ``1/sqrt(D)``.

    Args:
        query: ``[B, heads, L, D]``, any floating dtype.
        key: ``[B, heads, S, D]``, same dtype.
        value: ``[B, heads, S, D]``, same dtype.

    Returns:
        ``[B, heads, L, D]``, dtype of ``query``.

    Raises:
        DeviceError: the kernel asked for by :func:`kernel_scope` cannot run these tensors.
    """
    # Both are read, so that compiled code depends on them.
    if _in_force[0] and _flash4_in_force[0] and flash4.suits(query, key):  # pragma: gpu-only
        by_token = (one.transpose(1, 2) for one in (query, key, value))
        mixed: torch.Tensor = flash4.flash4(*by_token)
        return mixed.transpose(1, 2)
    try:
        return F.scaled_dot_product_attention(query, key, value)
    except RuntimeError as error:
        if not _is_refusal(error):
            raise
        raise DeviceError(
            f"attention kernel '{active_kernel().value}' cannot run on {query.device} with {query.dtype} and "
            f"head size {query.shape[-1]}; choose another with --attention (auto always works)"
        ) from error


def _is_refusal(error: RuntimeError) -> bool:
    return any(words in str(error) for words in _REFUSALS)
