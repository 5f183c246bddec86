"""FlashAttention-4 (package ``flash-attn-4``, BSD), where it is installed and the GPU is Hopper or Blackwell.

It is an operator of ours in torch's eyes, so that compiled graphs hold it without a break. The kernels are compiled
for a head size when they are first needed, which takes some seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache

import torch
from torch import Tensor

LEAST_KEYS = 4096
"""Shorter sequences go to the other kernels: the advantage was measured from 14,000 on."""

_ARCHITECTURES = (9, 10)
_HEAD_SIZES = (64, 96, 128)


@cache
def installed() -> bool:
    """Whether the package is there."""
    try:
        return importlib.util.find_spec("flash_attn.cute") is not None
    except (ImportError, ValueError):
        return False


@cache
def usable(device: int = 0) -> bool:
    """Whether the package is there and a GPU can run it.

    Args:
        device: index of the GPU.
    """
    return installed() and torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] in _ARCHITECTURES


def suits(query: Tensor, key: Tensor) -> bool:
    """Whether tensors are of a kind that it takes, on a GPU, and long enough to gain.

    Args:
        query: ``[B, heads, L, D]``.
        key: ``[B, heads, S, D]``.
    """
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] in _HEAD_SIZES
        and min(query.shape[2], key.shape[2]) >= LEAST_KEYS
        and not torch.is_grad_enabled()
    )


@torch.library.custom_op("gen3r::flash4", mutates_args=(), device_types="cuda")
def flash4(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without mask or dropout, scale ``1/sqrt(D)``.

    Args:
        query: ``[B, L, heads, D]`` of 16 bits on a GPU.
        key: ``[B, S, heads, D]``.
        value: ``[B, S, heads, D]``.

    Returns:
        ``[B, L, heads, D]``, contiguous.
    """
    module = importlib.import_module("flash_attn.cute")  # pragma: gpu-only
    result = module.flash_attn_func(query, key, value)  # pragma: gpu-only
    mixed: Tensor = result[0] if isinstance(result, tuple) else result  # pragma: gpu-only
    return mixed.contiguous()  # pragma: gpu-only


@flash4.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG001 - torch gives all
    return query.new_empty((*query.shape[:3], value.shape[-1]))
