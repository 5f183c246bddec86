"""Options that several commands share."""

import argparse

import pytest
import torch

from gen3r_core.commands.options import (
    DTYPES,
    GEOMETRIES,
    KERNELS,
    SCHEDULERS,
    choose_device,
    choose_dtype,
    image_size,
    loading_bar,
)
from gen3r_core.errors import DeviceError
from gen3r_core.geometry_source import GeometrySource
from gen3r_core.models.attention import AttentionKernel
from gen3r_core.schedulers import SOLVERS


def test_the_words_are_those_of_the_library():
    """They are written out there, so that the command starts without importing torch."""
    assert tuple(AttentionKernel) == KERNELS
    assert SCHEDULERS == SOLVERS
    assert tuple(GeometrySource) == GEOMETRIES
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPES.values())


@pytest.mark.parametrize(("text", "size"), [("560", (560, 560)), ("112x224", (112, 224)), ("224X112", (224, 112))])
def test_sizes(text, size):
    assert image_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "112x", "1x2x3", "1.5", "wide"])
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a size like 560 or 560x448 \(height x width\)"):
        image_size(text)


def test_devices(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="device 'cuda:2' is not there: torch sees 2 GPUs; use --device cpu"):
        choose_device("cuda:2")
    with pytest.raises(DeviceError, match="device 'gpu' is unknown; use auto, cpu, cuda or cuda:N"):
        choose_device("gpu")
    with pytest.raises(DeviceError, match="device 'meta' is not supported; use auto, cpu, cuda or cuda:N"):
        choose_device("meta")


def test_types():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("fp16", torch.device("cpu")) == torch.float16
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    assert choose_dtype("fp32", torch.device("cuda")) == torch.float32


def test_the_bar_of_loading(capsys):
    with loading_bar() as report:
        report("vggt", 10, 2000)
        report("vggt", 2000, 2000)
        report("transformer", 5, 10)  # never gets to its end: closed all the same
    shown = capsys.readouterr().err
    assert "vggt: " in shown
    assert "transformer: " in shown
    assert shown.endswith("\r")  # both are wiped away
    assert "\n" not in shown
