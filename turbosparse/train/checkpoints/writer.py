"""How torch.distributed.checkpoint writes our checkpoints: one safetensors file per rank, then the commit."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import Metadata, SavePlan, SavePlanner, StorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from turbosparse.artifacts.place import Place
from turbosparse.artifacts.tensor_files import DTYPE_NAMES, file_header, in_file_order
from turbosparse.train.checkpoints.blocks import contiguous_blocks
from turbosparse.train.checkpoints.manifest import Chunk, TensorRecord

CHUNK_BYTES = 32 * 1024**2
"""What a reader holds at least: a digest covers this much of a tensor, or less."""

Commit = Callable[[dict[str, TensorRecord], dict[str, int]], None]
"""Told the tensors and the sizes of the ranks' files, on rank 0, once all of them are written."""


@dataclass
class Shard:
    """This rank's part of a tensor, and the chunks it became."""

    name: str
    offsets: tuple[int, ...]
    values: Tensor
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def layout(self) -> tuple[str, str, tuple[int, ...]]:
        """Name, dtype and shape as in the rank's file."""
        return self.name, DTYPE_NAMES[self.values.dtype], tuple(self.values.shape)


class ShardWriter(StorageWriter):
    """Writes what the planner gives this rank to one file; rank 0 commits after the last one."""

    def __init__(self, attempt: Place, rank: int, commit: Commit) -> None:
        self._attempt = attempt
        self._file = f"rank-{rank:05d}.safetensors"
        self._commit = commit

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes and flushes, or uploads, this rank's file."""
        shards = [_shard(item, planner) for item in plan.items if math.prod(_sizes(item))]
        assert len({shard.name for shard in shards}) == len(shards), "a rank holds one part of a tensor"
        if shards:
            self._write(shards)
        chunks = {shard.name: shard.chunks for shard in shards}
        result: Future[list[WriteResult]] = Future()
        result.set_result(
            [WriteResult(item.index, 0, storage_data=chunks.get(item.index.fqn, [])) for item in plan.items]
        )
        return result

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commits on rank 0: every rank has written its file."""
        chunks: dict[str, list[Chunk]] = {name: [] for name in metadata.state_dict_metadata}
        for result in (result for of_rank in results for result in of_rank):
            chunks[result.index.fqn] += result.storage_data
        self._commit(
            {name: _record(tensor, chunks[name]) for name, tensor in metadata.state_dict_metadata.items()},
            _file_sizes(chunks),
        )

    def _write(self, shards: list[Shard]) -> None:
        by_name = {shard.name: shard for shard in shards}
        layouts = in_file_order(shard.layout for shard in shards)
        header = file_header(layouts)

        def pieces() -> Iterator[bytes | memoryview]:
            yield header
            start_byte = len(header)
            for name, _, _ in layouts:
                shard = by_name[name]
                shard.chunks.clear()
                for chunk, content in _chunks(shard, self._file, start_byte):
                    shard.chunks.append(chunk)
                    start_byte += chunk.num_bytes
                    yield content

        self._attempt.write(self._file, pieces)

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up: folders appear with their first file."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Takes the plans as they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Places are given to the constructor."""
        return checkpoint_id is None


def _sizes(item: WriteItem) -> torch.Size:
    assert item.type != WriteItemType.BYTE_IO, f"{item.index.fqn} is not a tensor"
    assert item.tensor_data is not None
    return item.tensor_data.chunk.sizes


def _shard(item: WriteItem, planner: SavePlanner) -> Shard:
    assert item.tensor_data is not None
    values = planner.resolve_data(item)
    assert isinstance(values, Tensor)
    return Shard(item.index.fqn, tuple(item.tensor_data.chunk.offsets), values.detach())


def _chunks(shard: Shard, file: str, start_byte: int) -> Iterator[tuple[Chunk, memoryview]]:
    values = shard.values.cpu().contiguous()
    content = values.flatten().view(torch.uint8).numpy().data
    position = 0
    for offsets, sizes in contiguous_blocks(tuple(values.shape), CHUNK_BYTES // values.element_size()):
        num_bytes = math.prod(sizes) * values.element_size()
        piece = content[position : position + num_bytes]
        place = tuple(first + offset for first, offset in zip(shard.offsets, offsets, strict=True))
        yield (
            Chunk(
                offsets=place,
                sizes=sizes,
                file=file,
                start_byte=start_byte + position,
                num_bytes=num_bytes,
                sha256=hashlib.sha256(piece).hexdigest(),
            ),
            piece,
        )
        position += num_bytes


def _record(tensor: Any, chunks: list[Chunk]) -> TensorRecord:
    assert isinstance(tensor, TensorStorageMetadata)
    return TensorRecord.model_validate(
        {
            "dtype": DTYPE_NAMES[tensor.properties.dtype],
            "shape": tuple(tensor.size),
            "chunks": tuple(chunks),
        }
    )


def _file_sizes(chunks: dict[str, list[Chunk]]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for chunk in (chunk for of_tensor in chunks.values() for chunk in of_tensor):
        ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.start_byte + chunk.num_bytes)
    return ends
