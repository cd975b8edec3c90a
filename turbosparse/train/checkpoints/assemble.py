"""From a checkpoint's chunks to a Hugging Face model folder, with as little memory for 90 GB as for 90 MB."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from turbosparse.artifacts.tensor_files import (
    bytes_of,
    divide_into_files,
    file_header,
    in_file_order,
    write_index,
)
from turbosparse.errors import ArtifactError
from turbosparse.train.checkpoints.blocks import contiguous_runs
from turbosparse.train.checkpoints.checkpoint import Checkpoint, ChunkRead
from turbosparse.train.checkpoints.manifest import Chunk, TensorRecord

SHARD_BYTES = 5 * 1000**3
"""Largest file that is written, unless one tensor alone is larger: what transformers writes by default."""


def assemble_model(
    checkpoint: Checkpoint,
    prefix: str,
    target: Path,
    file_names: Iterable[str] = ("config.json",),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a checkpoint's model to `target`: safetensors files, their index, and small files beside.

    Every chunk is read once, its digest checked, and its bytes are written where they belong: memory
    holds a few chunks. Several processes may assemble different checkpoints, none needs a GPU.

    Args:
        checkpoint: A whole checkpoint of any number of ranks.
        prefix: What the names of the model's tensors begin with, such as `model.`; it is left out.
        target: The folder; it is made where it is missing.
        file_names: The checkpoint's small files that go with the model.
        shard_bytes: Largest file, unless one tensor alone is larger.

    Raises:
        ArtifactError: The checkpoint has no such tensors or files, or a chunk is corrupt.
    """
    stored = checkpoint.manifest.tensors.items()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in stored if name.startswith(prefix)}
    if not tensors:
        remedy = "give a checkpoint of a training stage"
        raise ArtifactError("checkpoint", checkpoint.uri, f"tensors named {prefix}…", remedy)
    small_files = {name: checkpoint.file(name) for name in file_names}
    target.mkdir(parents=True, exist_ok=True)
    sizes = {name: bytes_of(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    files = divide_into_files(sizes, shard_bytes)
    for file_name, names in files.items():
        _write_file(checkpoint, {name: tensors[name] for name in names}, target / file_name)
    write_index(files, sizes, target)
    for name, content in small_files.items():
        (target / name).write_bytes(content)


def _write_file(checkpoint: Checkpoint, tensors: dict[str, TensorRecord], path: Path) -> None:
    layouts = in_file_order((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
    header = file_header(layouts)
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        reads = _reads([tensors[name] for name, _, _ in layouts], len(header), file.fileno())
        checkpoint.read_chunks(reads)
        os.fsync(file.fileno())


def _reads(tensors: list[TensorRecord], start_byte: int, descriptor: int) -> Iterator[ChunkRead]:
    for tensor in tensors:
        for chunk in tensor.chunks:
            yield ChunkRead(chunk, tensor.dtype, partial(_write_chunk, descriptor, start_byte, tensor, chunk))
        start_byte += bytes_of(tensor.dtype, tensor.shape)


def _write_chunk(
    descriptor: int, start_byte: int, tensor: TensorRecord, chunk: Chunk, values: Tensor
) -> None:
    """Writes a chunk's runs of bytes at their places in the file, whose tensor begins at `start_byte`."""
    content = memoryview(values.flatten().view(torch.uint8).numpy().data)
    element_bytes, position = values.element_size(), 0
    for first, length in contiguous_runs(tensor.shape, chunk.offsets, chunk.sizes):
        run = content[position : position + length * element_bytes]
        written = os.pwrite(descriptor, run, start_byte + first * element_bytes)
        assert written == len(run)
        position += len(run)
