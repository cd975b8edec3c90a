"""Checkpoints of several ranks: written by two, read by one, read by two again."""

import errno
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.multiprocessing import spawn

from turbosparse.artifacts.place import Place
from turbosparse.errors import ArtifactError
from turbosparse.train.checkpoints import CheckpointStore, assemble_model

NUM_RANKS = 2


class Experts(nn.Module):
    """Three experts are cut on dimension 1, or one of two ranks would hold two thirds of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, 4))
        self.bias = nn.Parameter(torch.randn(5))  # three elements on one rank, two on the other
        self.scale = nn.Parameter(torch.randn(1))  # nothing on the second rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("eij,bj->b", self.weight, x) * self.scale + self.bias.sum()


def _sharded_run(seed: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    module = Experts()
    dimension = {id(module.weight): 1}
    fully_shard(module, shard_placement_fn=lambda parameter: Shard(dimension.get(id(parameter), 0)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = {f"model.{name}": parameter.data for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        state |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return module, state | {"random": torch.arange(5)}


def _whole(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()
        for name, tensor in state.items()
    }


def _count_reads() -> list[int]:
    """Returns a list that receives the bytes of every read of this process."""
    counts: list[int] = []
    read = Place.read

    def counting(self: Place, path: str, start: int | None = None, end: int | None = None) -> bytes:
        content = read(self, path, start, end)
        counts.append(len(content))
        return content

    Place.read = counting
    return counts


def _fill_disk_of_rank_1() -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if dist.get_rank() == 1:
        os.fsync = full


def _check_load(store: CheckpointStore, expected: dict[str, torch.Tensor]) -> int:
    """Loads the latest checkpoint into another run's shards. Returns how many bytes this rank read."""
    _, state = _sharded_run(seed=1)
    counts = _count_reads()
    checkpoint = store.latest()
    counts.clear()
    store.load(checkpoint, state)
    whole = _whole(state)
    assert all(torch.equal(whole[name], expected[name]) for name in expected)
    return sum(counts)


def _save_on_two(store: CheckpointStore, folder: Path) -> None:
    _, state = _sharded_run(seed=0)
    store.save(1, state, {"rank": dist.get_rank()}, {"config.json": b"{}"})
    whole = _whole(state)
    if dist.get_rank() == 0:
        save_file(whole, folder / "expected.safetensors")
    num_bytes = sum(tensor.nbytes for tensor in whole.values())
    assert _check_load(store, whole) < 0.7 * num_bytes, "a rank read more than its own part"
    fsync = os.fsync
    _fill_disk_of_rank_1()
    with pytest.raises(ArtifactError, match="No space left"):
        store.save(2, state, {}, {})
    os.fsync = fsync
    assert store.latest().step == 1


def _load_on_two(store: CheckpointStore, folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    _check_load(store, {name: tensor * 2 for name, tensor in expected.items()})


def _run(rank: int, uri: str, folder: Path, what: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/{what}", rank=rank, world_size=NUM_RANKS)
    store = CheckpointStore(uri, "abc", patience_seconds=0)
    {"save": _save_on_two, "load": _load_on_two}[what](store, folder)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_save_one_loads_and_saves_two_load(tmp_path):
    uri = str(tmp_path / "checkpoints")
    spawn(_run, args=(uri, tmp_path, "save"), nprocs=NUM_RANKS)

    store = CheckpointStore(uri, "abc")
    checkpoint, expected = store.latest(), load_file(tmp_path / "expected.safetensors")
    assert (checkpoint.step, checkpoint.record, checkpoint.manifest.num_ranks) == (1, {"rank": 0}, 2)
    assert len(checkpoint.manifest.tensors["model.weight"].chunks) == 2
    assert len(checkpoint.manifest.tensors["random"].chunks) == 1, "equal tensors are written once"
    alone = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    store.load(checkpoint, alone)
    assert all(torch.equal(alone[name], expected[name]) for name in expected)

    assemble_model(checkpoint, "model.", tmp_path / "model")
    assembled = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(tensor, expected[f"model.{name}"]) for name, tensor in assembled.items())

    store.save(3, {name: tensor * 2 for name, tensor in alone.items()}, {}, {})
    spawn(_run, args=(uri, tmp_path, "load"), nprocs=NUM_RANKS)
