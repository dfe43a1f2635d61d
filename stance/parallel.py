"""Several processes that train one model: which of them this is, and sums over all of them.

`torchrun` starts them and says so in the environment. Each works out its part of every batch and
adds up with the others, so all hold the same weights and come to the same decisions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from stance.errors import ConfigError, StanceError

# The others wait where the first does work of its own, such as asking a teacher.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes
    ----------
    rank : number of this process; 0 alone writes and logs.
    size : how many there are.
    device : where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """Which rows of a batch, or which batches of a set, are this process's."""
        return slice(self.rank, None, self.size)

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others do."""
        if self.size > 1 and not self.is_main:
            try:
                dist.barrier()
            except RuntimeError as err:
                raise StanceError("the first process broke off, see its error") from err
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()


def join(device: str) -> Ranks:
    """Find the other processes of this run; without `torchrun` there are none.

    Parameters
    ----------
    device : auto, cpu or cuda; with several processes each takes a GPU of its own.

    Raises
    ------
    ConfigError : no GPU, or fewer than processes; or the environment is not torchrun's.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda but torch finds no GPU; use auto or cpu")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks(0, 1, torch.device(device))
    if not dist.is_torchelastic_launched():
        raise ConfigError(f"WORLD_SIZE={size} but torchrun did not start this; unset it")
    return _join(device, size)


def _join(device: str, size: int) -> Ranks:
    here, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if device == "cuda" and here > n_gpus:
        raise ConfigError(f"{here} processes but {n_gpus} GPUs; start fewer, or use the cpu")
    own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else None
    if own is not None:
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        backend = "gloo" if own is None else "nccl"
        dist.init_process_group(backend, timeout=_PATIENCE, device_id=own)
    return Ranks(int(os.environ["RANK"]), size, own or torch.device("cpu"))


def leave() -> None:
    """Part from the other processes, for good."""
    if dist.is_initialized():
        dist.destroy_process_group()
