"""Where the networks' weights lie between the stages of a job, and while they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from gen3r_core.devices import numbered
from gen3r_core.execution.levels import LEVELS, Level
from gen3r_core.execution.streaming import BlockStream
from gen3r_core.models.text_encoder import TextEncoder
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT

PARTS = {"camera_adapter": "transformer"}
"""Parts of a network that are used by themselves."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network that can be streamed, in the order of their calls; empty for other networks."""
    if isinstance(network, CameraTransformer):
        return list(network.blocks)
    if isinstance(network, TextEncoder):
        return list(network.model.encoder.block)
    if isinstance(network, VGGT):
        body = network.aggregator
        return list(chain.from_iterable(zip(body.frame_blocks, body.global_blocks, strict=True)))
    return []


def stays_home(network: nn.Module) -> list[Tensor]:
    """Weights of a network that are used where they lie while its blocks are streamed: tables of which few rows are."""
    return [network.model.shared.weight] if isinstance(network, TextEncoder) else []


class Placement:
    """Brings networks to the device for as long as they are used, as far as the level asks for it.

    Weights that live in host memory are never copied back: they do not change.

    Args:
        device: where everything is computed.
        level: how sparing with the device's memory.
        networks: by name, all that are used; those that the level wants away leave the device.

    Attributes:
        device: the same, with its number.
    """

    def __init__(
        self,
        device: torch.device,
        level: Level = LEVELS[0],
        networks: Mapping[str, nn.Module | None] | None = None,
    ) -> None:
        # Weights lie on a GPU with a number: "cuda" is unequal to that, and they would be sent there each time.
        self.device = numbered(device)
        self._level = level
        self._networks = {name: network for name, network in (networks or {}).items() if network is not None}
        self._streams: WeakKeyDictionary[nn.Module, BlockStream] = WeakKeyDictionary()
        self._present: WeakSet[nn.Module] = WeakSet()
        self._send_away()

    @property
    def level(self) -> Level:
        """How sparing it is."""
        return self._level

    def change(self, level: Level) -> None:
        """Go on at another level, from the next use of each network on.

        What the level wants away goes now, as it may not be used before the device's memory is needed.
        """
        self._level = level
        for network, stream in list(self._streams.items()):
            del network
            stream.close()
        self._streams.clear()
        self._send_away()

    def _send_away(self) -> None:
        for name, network in self._networks.items():
            if name in self._level.away and network not in self._present and device_of(network).type != "cpu":
                network.to("cpu")

    def lower(self) -> Level | None:
        """The next more sparing level, None at the last.

        From a level that a plan made roomier, that is the level it was made of.
        """
        if self._level in LEVELS:
            later = LEVELS[LEVELS.index(self._level) + 1 :]
        else:
            later = tuple(level for level in LEVELS if level.name == self._level.name)
        return later[0] if later else None

    def bring_back(self) -> None:
        """All networks to the device, at the first level: for networks that somebody else uses, too."""
        self.change(LEVELS[0])
        for network in self._networks.values():
            network.to(self.device)

    def forget(self, network: nn.Module) -> None:
        """Call this after parts of a network were exchanged."""
        stream = self._streams.pop(network, None)
        if stream is not None:
            stream.close()

    @contextmanager
    def using(self, **networks: nn.Module | None) -> Iterator[None]:
        """Have networks on the device.

        Args:
            networks: by name (see :data:`gen3r_core.execution.levels.NETWORKS`); "camera_adapter" is the
                transformer's. None is nothing to do.
        """
        with ExitStack() as stack:
            for name, network in networks.items():
                if network is not None:
                    stack.enter_context(self._having(name, network))
            yield

    @contextmanager
    def _having(self, name: str, network: nn.Module) -> Iterator[None]:
        if network in self._present:
            yield
            return
        with ExitStack() as stack:
            if PARTS.get(name, name) not in self._level.away:
                if device_of(network) != self.device:  # pragma: gpu-only
                    network.to(self.device)
            else:
                blocks = blocks_of(network) if name in self._level.streamed else []
                inside = {id(tensor) for block in blocks for tensor in (*block.parameters(), *block.buffers())}
                inside |= {id(tensor) for tensor in stays_home(network) if blocks}
                rest = [t for t in (*network.parameters(), *network.buffers()) if id(t) not in inside]
                stack.enter_context(_on_device(rest, self.device))
                if blocks:
                    stack.enter_context(self._stream(network, blocks, name))
            self._present.add(network)
            stack.callback(self._present.discard, network)
            yield

    def _stream(self, network: nn.Module, blocks: Sequence[nn.Module], name: str) -> BlockStream:
        if network not in self._streams:
            # The text encoder runs once a prompt: locking its many GiB would take longer than it gains.
            self._streams[network] = BlockStream(blocks, self.device, pinned=name != "text_encoder")
        return self._streams[network]


def device_of(network: nn.Module) -> torch.device:
    """Where a network's first weight lies."""
    return next(network.parameters()).device


@contextmanager
def _on_device(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Have copies of tensors on the device in their place; afterwards they are what they were, in host memory."""
    homes: list[Tensor] = []
    try:
        for tensor in tensors:
            home = tensor.data if tensor.data.device.type == "cpu" else tensor.data.cpu()
            homes.append(home)
            tensor.data = torch.empty_like(home, device=device).copy_(home, non_blocking=True)
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=False):
            tensor.data = home
