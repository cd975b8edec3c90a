"""The safetensors format: what stands before a file's bytes, and how it names dtypes."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Layout = tuple[str, str, tuple[int, ...]]
"""A tensor's name, its dtype as safetensors writes it, and its shape."""


def in_file_order(tensors: Iterable[Layout]) -> list[Layout]:
    """Returns the tensors as they follow each other in a file.

    Wide elements first keeps each tensor at a multiple of its element size, as safetensors writes.
    """
    return sorted(tensors, key=lambda tensor: -DTYPES[tensor[1]].itemsize)


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Returns what a tensor takes in a file."""
    return math.prod(shape) * DTYPES[dtype].itemsize


def file_header(tensors: Iterable[Layout]) -> bytes:
    """Returns what stands in a safetensors file before the bytes of `tensors`, which follow in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + bytes_of(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def divide_into_files(sizes: dict[str, int], shard_bytes: int) -> dict[str, list[str]]:
    """Returns the names of the tensors that go into each file of a model folder.

    Args:
        sizes: Each tensor's bytes by its name.
        shard_bytes: What a file holds at most, unless one tensor alone is larger.
    """
    shards = list(_fill_shards(sizes, shard_bytes))
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def write_index(files: dict[str, list[str]], sizes: dict[str, int], folder: Path) -> None:
    """Writes the index of a model folder where it has several files."""
    if len(files) == 1:
        return
    weight_map = {name: file_name for file_name, names in files.items() for name in names}
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _fill_shards(sizes: dict[str, int], shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    held_bytes = 0
    for name, size in sizes.items():
        if names and held_bytes + size > shard_bytes:
            yield names
            names, held_bytes = [], 0
        names.append(name)
        held_bytes += size
    yield names
