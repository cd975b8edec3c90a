"""The ranks of a run, as far as checkpoints need them to agree."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

AGREEMENT_TIMEOUT = timedelta(hours=2)
"""How long ranks wait for the slowest upload: storage's patience, and a slow link."""

T = TypeVar("T")


class Ranks:
    """All ranks, or the only process where torch.distributed is not initialised."""

    def __init__(self) -> None:
        self.are_many = dist.is_available() and dist.is_initialized()
        # NCCL would end a rank that waits ten minutes for another's upload; gloo's timeout is our own.
        self.group: dist.ProcessGroup | None = None
        if self.are_many:
            group = dist.new_group(backend="gloo", timeout=AGREEMENT_TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)  # every rank is in it
            self.group = group
        self.rank = dist.get_rank() if self.are_many else 0
        self.number = dist.get_world_size() if self.are_many else 1

    def on_first(self, work: Callable[[], T]) -> T:
        """Returns on every rank what `work` returns on rank 0, or raises what it raises there."""
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [work()]
            except Exception as error:  # raised below, on every rank
                outcome = [_Failure(error)]
        if self.group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self.group)
        if isinstance(outcome[0], _Failure):
            raise outcome[0].error
        result: T = outcome[0]
        return result


@dataclass(frozen=True)
class _Failure:
    error: Exception
