"""How torch.distributed.checkpoint reads our checkpoints: only chunks that overlap a rank's shards."""

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, Metadata, StorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem
from torch.futures import Future

from turbosparse.artifacts.tensor_files import DTYPE_NAMES, DTYPES
from turbosparse.errors import ModelError
from turbosparse.train.checkpoints.blocks import Offsets
from turbosparse.train.checkpoints.checkpoint import Checkpoint, ChunkRead
from turbosparse.train.checkpoints.manifest import TensorRecord


def check_fits(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Compares names, shapes and dtypes, before anything is read.

    Raises:
        ModelError: The checkpoint is of another model; the message names the first tensor that differs.
    """
    remedy = f"resume with the configuration that wrote {checkpoint.uri}, or give another root"
    for name, tensor in tensors.items():
        stored = checkpoint.manifest.tensors.get(name)
        wanted = (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        if stored is None:
            raise ModelError("checkpoint", f"has no {name}", f"{wanted[0]} of shape {wanted[1]}", remedy)
        found = (stored.dtype, stored.shape)
        if found != wanted:
            raise ModelError(f"{name} in the checkpoint", found, f"{wanted[0]} of shape {wanted[1]}", remedy)


class ShardReader(StorageReader):
    """Reads a rank's part of a checkpoint by ranges of bytes, each chunk's digest checked."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002 - torch's form
        """Returns the manifest as the planner knows it."""
        tensors = self._checkpoint.manifest.tensors
        return Metadata({name: _planned(tensor) for name, tensor in tensors.items()})

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copies into this rank's tensors what the plan asks for; a chunk is read once for all its uses."""
        items: dict[tuple[str, Offsets], list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            assert item.storage_index.offset is not None
            items[item.storage_index.fqn, tuple(item.storage_index.offset)].append(item)
        self._checkpoint.read_chunks(
            ChunkRead(chunk, tensor.dtype, partial(_copy, planner, items[name, chunk.offsets]))
            for name, tensor in self._checkpoint.manifest.tensors.items()
            for chunk in tensor.chunks
            if (name, chunk.offsets) in items
        )
        result: Future[None] = Future()
        result.set_result(None)
        return result

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to set up: the manifest is at hand."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Takes the plans as they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """The checkpoint is given to the constructor."""
        return checkpoint_id is None


def _planned(tensor: TensorRecord) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in tensor.chunks]
    properties = TensorProperties(dtype=DTYPES[tensor.dtype])
    return TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)


def _copy(planner: LoadPlanner, items: list[ReadItem], chunk: Tensor) -> None:
    for item in items:
        values = chunk
        for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            values = values.narrow(dimension, offset, length)
        target = planner.resolve_tensor(item).detach()
        target.copy_(values)
        planner.commit_tensor(item, target)
