"""Several processes that evaluate together: each does a share, all know everything afterwards."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeVar

import torch.distributed as dist

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that evaluate together."""

    rank: int
    size: int

    def share(self, work: Sequence[T]) -> list[T]:
        """Returns this rank's share, every `size`-th piece: pieces sorted by size are dealt evenly."""
        return list(work[self.rank :: self.size])

    def gather(self, found: Mapping[K, T]) -> dict[K, T]:
        """Returns what all ranks have found."""
        if self.size == 1:
            return dict(found)
        parts: list[dict[K, T] | None] = [None] * self.size
        dist.all_gather_object(parts, dict(found))
        return {key: value for part in parts if part is not None for key, value in part.items()}


ALONE = Ranks(0, 1)


def is_first_rank() -> bool:
    """Returns whether this process reports: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_many() -> bool:
    """Returns whether torchrun, or `start_ranks`, has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the processes that were started with this one, inside the block; alone where there are none."""
    if not is_one_of_many():
        yield ALONE
        return
    # gloo, with GPUs too: what travels is a few numbers per item.
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def start_ranks(arguments: Sequence[str], num_ranks: int) -> int:
    """Runs a command of ours once per rank, the first rank's output being ours; returns its exit status.

    What the others print is shown where one of them fails and the first does not.
    """
    with tempfile.TemporaryFile("w+") as others_output:
        processes = _start(arguments, num_ranks, others_output)
        statuses = [process.wait() for process in processes]
        if statuses[0] == 0 and any(statuses):
            others_output.seek(0)
            sys.stderr.write(others_output.read())
        return statuses[0] or max(map(abs, statuses))


def _start(arguments: Sequence[str], num_ranks: int, others_output: IO[str]) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # Ranks that each start a thread per core would stand in each other's way.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_ranks))}
    processes = []
    for rank in range(num_ranks):
        own = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        output = None if rank == 0 else others_output
        command = [sys.executable, "-c", "from turbosparse.cli import main; main()", *arguments]
        environment = threads | os.environ | own
        processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True))
    return processes
