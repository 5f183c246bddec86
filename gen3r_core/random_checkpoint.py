"""A checkpoint of random weights, for benchmarks of what only a checkpoint's files show: loading, and mapped memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import PUBLISHED_DEFAULTS, SCHEDULER_DEFAULTS, Checkpoint, ComponentFiles
from gen3r_core.checkpoint.plan import secondary_names
from gen3r_core.checkpoint.tensors import TensorInfo
from gen3r_core.sizes import character_tokenizer, draw_weight, named_config, named_size

LICENCE = "none needed: random numbers"


class RandomTensors:
    """The weights of a network, each drawn when it is read, from a seed of its own.

    Args:
        component: our name of the network.
        module: the network, its parameters on the meta device.
    """

    def __init__(self, component: str, module: nn.Module) -> None:
        self.files: list[Path] = []
        self._component = component
        self._buffers = dict(module.named_buffers())
        tensors = module.state_dict(keep_vars=True)
        second = secondary_names(SPECS[component].own_keys, tensors)
        self.infos = {
            key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items() if key not in second
        }

    def read(self, key: str) -> Tensor:
        """Draw it, the same each time; buffers are those of a new network."""
        if key in self._buffers:
            return self._buffers[key]
        info = self.infos[key]
        weight = torch.empty(info.shape, dtype=info.dtype)
        seed = zlib.crc32(f"{self._component}.{key}".encode())
        draw_weight(key, weight, torch.Generator().manual_seed(seed))
        return weight

    def release(self, key: str) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class RandomFiles(ComponentFiles):
    """A component whose tensors are drawn in place of being read."""

    @cached_property
    def source(self) -> RandomTensors:
        """Its tensors."""
        with init_empty_weights(include_buffers=False):
            module = self.spec.build(self.config)
        return RandomTensors(self.spec.name, module)


@contextmanager
def random_checkpoint(size: str) -> Iterator[Checkpoint]:
    """A model of a named size with random float32 weights, as a checkpoint that can be converted but not opened.

    Args:
        size: one of :data:`gen3r_core.sizes.SIZES`.

    Raises:
        InputError: unknown size.
    """
    named = named_size(size)
    components = {}
    for name, spec in SPECS.items():
        with init_empty_weights(include_buffers=False):
            config = spec.config_of(spec.build(named_config(size, name)))
        components[name] = RandomFiles(spec, Path(f"random {size}") / name, "gen3r", config)
    with TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        character_tokenizer().save(tokenizer)
        yield Checkpoint(
            root=Path(f"random {size}"),
            layout="gen3r",
            components=components,
            tokenizer=tokenizer,
            scheduler=SCHEDULER_DEFAULTS,
            defaults={
                **PUBLISHED_DEFAULTS,
                "num_frames": named.num_frames,
                "image_size": list(named.image_size),
            },
            manifest={"licences": dict.fromkeys((*components, "tokenizer"), LICENCE)},
        )
