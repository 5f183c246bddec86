"""The two branches of guidance in two processes, each with a GPU of its own: the same result in half of the time.

`torchrun --nproc_per_node 2 -m gen3r_core.cli infer ...` starts them. Both do the whole job on the same seeds but for
the guided steps, of which each computes one branch and sends it to the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gen3r_core.errors import DeviceError, InputError

WORLD, RANK, LOCAL = "WORLD_SIZE", "RANK", "LOCAL_RANK"
"""Variables that `torchrun` sets."""


def processes() -> int:
    """Processes that `torchrun` started; 1 without it.

    Raises:
        InputError: more than two, for which there is no work.
    """
    count = int(os.environ.get(WORLD, "1"))
    if count > 2:
        raise InputError(f"{count} processes were started, but guidance has two branches: use --nproc_per_node 2")
    return count


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return int(os.environ.get(RANK, "0")) == 0


def join(device: torch.device) -> BranchProcesses | None:
    """Join the other process, if there is one.

    Args:
        device: of this process; GPUs talk through NCCL, CPUs through Gloo.
    """
    if processes() < 2:
        return None
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return BranchProcesses(dist.group.WORLD)


class BranchProcesses:
    """This process among the two.

    Args:
        group: of both.

    Raises:
        InputError: there are not two of them.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        if group is None or group.size() != 2:
            raise InputError("guidance has two branches: two processes can share them, neither more nor fewer")
        self._group = group
        self.rank: int = group.rank()

    def agree(self, latents: Tensor) -> Tensor:
        """The first process's latents, in both: one seed gives other numbers on other GPUs."""
        latents = latents.contiguous()
        self._group.broadcast(latents, root=0).wait()
        return latents

    def flow(self, predict: Callable[[Sequence[str]], Tensor], branches: Sequence[str]) -> Tensor:
        """Flows of all branches, in their order.

        Args:
            predict: gives the flow ``[B, C, f, h, w]`` of the branches that it is given.
            branches: two, of which this process computes its own; one is computed in both processes.

        Returns:
            ``[len(branches) * B, C, f, h, w]``.

        Raises:
            DeviceError: memory ran out: the other process waits and cannot follow to a lower level.
        """
        if len(branches) != 2:
            return predict(branches)
        try:
            own = predict((branches[self.rank],)).contiguous()
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                "memory ran out in one of the two processes that share the work; give both a --memory_budget, "
                "or run one process alone, which goes on with less"
            ) from error
        both = [torch.empty_like(own) for _ in branches]
        self._group.allgather([both], [own]).wait()
        return torch.cat(both)
