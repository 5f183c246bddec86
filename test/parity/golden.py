"""Reading golden data: inputs, weights and outputs of a reference run, compared with ours.

A kit is a folder of ``<case>.safetensors`` and ``<case>.json`` pairs. The folder comes from
the environment variable ``GEN3R_GOLDEN``, else from ``../shared/golden`` beside the
repository; where it is absent the tests that need it are skipped with a message. Nothing
about a case is known here: names, shapes and settings are read from the files.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

_REPOSITORY = Path(__file__).resolve().parents[2]

#: Where the kit lies (it need not exist).
FOLDER = Path(os.environ.get("GEN3R_GOLDEN") or _REPOSITORY.parent / "shared" / "golden")

#: Put ``@golden.requires_golden`` on every test that reads the kit.
requires_golden = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no golden data at {FOLDER}: set GEN3R_GOLDEN to a folder of golden cases",
)


@dataclass(frozen=True)
class GoldenCase:
    """One case of the kit.

    Attributes:
        name: file name without its ending.
        meta: the JSON as it stands (constructor arguments, seeds, sub-cases, ``tensors``).
        inputs: tensors under ``in/``, keys without that prefix, cast to the dtype that the
            JSON calls ``run_as`` (half floats become float32 where it says nothing).
        outputs: tensors under ``out/``, keys without that prefix, dtype as stored.
        weights: tensors under ``weights/``, keys without that prefix, floating ones as
            float32. A case without its own takes those of the ``weights_file`` it names.
    """

    name: str
    meta: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    weights: dict[str, Tensor]


def cases(prefix: str = "") -> list[str]:
    """Return the sorted names of the kit's cases that start with ``prefix`` (none if there is no kit)."""
    if not FOLDER.is_dir():
        return []
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.safetensors") if path.with_suffix(".json").is_file())


def load(case: str) -> GoldenCase:
    """Read one case, all tensors on the CPU. A kit that lacks the case skips the calling test with a message."""
    tensor_path, meta_path = FOLDER / f"{case}.safetensors", FOLDER / f"{case}.json"
    if not (tensor_path.is_file() and meta_path.is_file()):
        pytest.skip(f"the golden kit at {FOLDER} has no case {case!r}")
    meta: dict[str, Any] = json.loads(meta_path.read_text(encoding="utf-8"))
    described: dict[str, dict[str, Any]] = meta.get("tensors") or {}
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(tensor_path, framework="pt", device="cpu") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors handle is not iterable
            group, _, name = key.partition("/")
            tensor = file.get_tensor(key)
            if group == "in":
                inputs[name] = _as_run(tensor, described.get(key, {}).get("run_as"))
            elif group == "out":
                outputs[name] = tensor
            elif group == "weights":
                weights[name] = tensor.float() if tensor.is_floating_point() else tensor
            else:
                raise ValueError(f"{tensor_path}: tensor {key!r} is neither input, output nor weight")
    borrowed = meta.get("weights_file")
    if borrowed and not weights:
        weights = load(Path(borrowed).stem).weights
    return GoldenCase(case, meta, inputs, outputs, weights)


def difference(actual: object, expected: object) -> float:
    """Return max abs difference / max abs expected value, in float64; inf where NaN or infinity do not coincide."""
    actual, expected = _comparable(actual), _comparable(expected)
    if expected.numel() == 0:
        return 0.0
    finite = torch.isfinite(expected)
    others_agree = torch.equal(actual[~finite].nan_to_num(nan=0.5), expected[~finite].nan_to_num(nan=0.5))
    same_nan = torch.equal(torch.isnan(actual), torch.isnan(expected))
    if not (others_agree and same_nan and bool(torch.isfinite(actual[finite]).all())):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    error = float((actual[finite] - expected[finite]).abs().max())
    scale = float(expected[finite].abs().max())
    if scale == 0.0:
        return error
    return error / scale


def assert_close(actual: object, expected: object, limit: float) -> None:
    """Fail unless ``actual`` has the shape of ``expected`` and its values within ``limit``.

    The measure is :func:`difference`. Expected integers and booleans must match exactly,
    whatever ``limit`` says. Tensors of any device, arrays and lists are taken.
    """
    wanted = torch.as_tensor(expected).detach().cpu()
    got = torch.as_tensor(actual).detach().cpu()
    if got.shape != wanted.shape:
        pytest.fail(f"shape {tuple(got.shape)} where {tuple(wanted.shape)} was expected")
    if not wanted.is_floating_point():
        wrong = int((_comparable(got) != _comparable(wanted)).sum())
        if wrong:
            pytest.fail(f"{wrong} of {wanted.numel()} integer values differ, none may")
        return
    measured = difference(got, wanted)
    if not measured <= limit:
        pytest.fail(f"normalised difference {measured:.3e} is over the limit {limit:.1e}")


def _comparable(values: object) -> Tensor:
    return torch.as_tensor(values).detach().cpu().to(torch.float64)


def _as_run(tensor: Tensor, run_as: str | None) -> Tensor:
    if run_as is not None:
        dtype = getattr(torch, run_as)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{run_as!r} is not the name of a dtype")
        return tensor.to(dtype)
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor


def manifests() -> list[str]:
    """Return the names of the kit's manifests; "absent" stands for none, so that a skipped test is counted."""
    folder = FOLDER / "manifests"
    found = sorted(p.stem for p in folder.glob("*.json") if "keys" in json.loads(p.read_text(encoding="utf-8")))
    return found or ["absent"]


def load_manifest(name: str) -> dict[str, Any]:
    """Read one manifest. A kit that lacks it skips the calling test with a message."""
    path = FOLDER / "manifests" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the golden kit at {FOLDER} has no manifest {name!r}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
