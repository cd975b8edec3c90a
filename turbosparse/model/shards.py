"""Safetensors files as ranges of bytes: tensors move between files without being held in memory."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from turbosparse.artifacts.tensor_files import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    bytes_of,
    divide_into_files,
    file_header,
    in_file_order,
    write_index,
)
from turbosparse.errors import ModelError

SHARD_BYTES = 2 * 1000**3
"""Largest file that is written, unless one tensor alone is larger."""

_WEIGHT_DTYPES = [name for name, dtype in DTYPES.items() if dtype.is_floating_point]
_COPY_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Span:
    """A range of bytes in a file."""

    path: Path
    start: int
    num_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk: row-major, its spans' bytes one after the other."""

    dtype: str
    """As safetensors writes it, such as `BF16`."""
    shape: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(span.num_bytes for span in self.spans)


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Returns a model folder's tensors by name, having read the files' headers only.

    Raises:
        ModelError: No safetensors, a file that is cut or missing, an unknown dtype, a name twice.
    """
    found: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        for name, tensor in _tensors_of(path):
            if name in found:
                raise ModelError("weights", name, "each tensor once", "delete the files of another model")
            if tensor.dtype not in _WEIGHT_DTYPES:
                expected = f"{name} as one of {', '.join(_WEIGHT_DTYPES)}"
                raise ModelError("dtype", tensor.dtype, expected, "give the model from before quantisation")
            found[name] = tensor
    return found


def join_tensors(parts: list[StoredTensor], shape: tuple[int, ...]) -> StoredTensor:
    """Returns the tensor of `shape` whose elements are those of `parts`, one part after the other."""
    assert len({part.dtype for part in parts}) == 1
    assert math.prod(shape) == sum(math.prod(part.shape) for part in parts)
    return StoredTensor(parts[0].dtype, shape, tuple(span for part in parts for span in part.spans))


def split_tensor(tensor: StoredTensor, shapes: list[tuple[int, ...]]) -> list[StoredTensor]:
    """Returns consecutive parts of `tensor`: the inverse of `join_tensors`."""
    parts, start = [], 0
    for shape in shapes:
        num_bytes = bytes_of(tensor.dtype, shape)
        parts.append(StoredTensor(tensor.dtype, shape, tuple(_cut(tensor.spans, start, num_bytes))))
        start += num_bytes
    assert start == tensor.num_bytes
    return parts


def slice_tensor(tensor: StoredTensor, dim: int, start: int, end: int) -> StoredTensor:
    """Returns `tensor[start:end]` along dimension `dim`, as the ranges of bytes that it takes."""
    row_bytes = tensor.num_bytes // math.prod(tensor.shape[: dim + 1])
    step_bytes, part_bytes = tensor.shape[dim] * row_bytes, (end - start) * row_bytes
    firsts = range(start * row_bytes, tensor.num_bytes, step_bytes) if part_bytes else ()
    spans = tuple(span for first in firsts for span in _cut(tensor.spans, first, part_bytes))
    return StoredTensor(tensor.dtype, (*tensor.shape[:dim], end - start, *tensor.shape[dim + 1 :]), spans)


def read_tensor(tensor: StoredTensor) -> Tensor:
    """Returns the tensor in memory, in its own dtype."""
    values = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    content, start = values.flatten().view(torch.uint8), 0
    for chunk in _read(tensor):
        content[start : start + len(chunk)] = torch.frombuffer(chunk, dtype=torch.uint8)
        start += len(chunk)
    return values


def equal_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Compares two tensors bit for bit, a piece at a time."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(_read(one), _read(other), strict=True))


def write_shards(tensors: dict[str, StoredTensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Copies `tensors` into files of at most `shard_bytes`, with an index where there are several.

    A tensor larger than that has a file of its own. Memory in use does not depend on any size.
    """
    sizes = {name: tensor.num_bytes for name, tensor in tensors.items()}
    files = divide_into_files(sizes, shard_bytes)
    for file_name, names in files.items():
        _write_file({name: tensors[name] for name in names}, folder / file_name)
    write_index(files, sizes, folder)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        remedy = "convert the weights to safetensors: pickled ones are never loaded"
        raise ModelError("weights", str(folder), f"{SINGLE_FILE} or {INDEX_FILE}", remedy)
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
        elsewhere = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "an index of safetensors files"
        raise ModelError("weights", str(folder / INDEX_FILE), expected, "fetch it again") from error
    if elsewhere:
        raise ModelError("weight_map", elsewhere, "files beside the index", "fetch the index again")
    return [folder / name for name in names]


def _tensors_of(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        with safe_open(path, framework="pt"):  # checks the header's ranges against the file's size
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(header_bytes))
    except Exception as error:  # safetensors raises its own kinds, unexported
        remedy = f"fetch it again ({error})"
        raise ModelError("weights", str(path), "a whole safetensors file", remedy) from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        span = Span(path, 8 + header_bytes + start, end - start)
        yield name, StoredTensor(entry["dtype"], tuple(entry["shape"]), (span,))


def _cut(spans: tuple[Span, ...], start: int, num_bytes: int) -> Iterator[Span]:
    """Yields the spans of the `num_bytes` bytes that follow the first `start`."""
    for span in spans:
        first, last = max(start, 0), min(start + num_bytes, span.num_bytes)
        if first < last:
            yield Span(span.path, span.start + first, last - first)
        start -= span.num_bytes


def _read(tensor: StoredTensor) -> Iterator[memoryview]:
    """Yields the tensor's bytes; each piece holds until the next is asked for.

    Reads into one buffer: pages of a memory map would count as ours until the kernel takes them back.
    """
    buffer = memoryview(bytearray(min(_COPY_BYTES, tensor.num_bytes)))
    for span in tensor.spans:
        left = span.num_bytes
        with span.path.open("rb") as file:
            file.seek(span.start)
            while left:
                piece = buffer[: min(left, len(buffer))]
                if file.readinto(piece) < len(piece):
                    raise ModelError("weights", str(span.path), "a whole safetensors file", "fetch it again")
                yield piece
                left -= len(piece)


def _write_file(tensors: dict[str, StoredTensor], path: Path) -> None:
    layouts = in_file_order((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
    with path.open("wb") as file:
        file.write(file_header(layouts))
        for name, _, _ in layouts:
            _copy(tensors[name], file)
        file.flush()
        os.fsync(file.fileno())  # the folder is renamed next: its content must not come later


def _copy(tensor: StoredTensor, file: BinaryIO) -> None:
    for chunk in _read(tensor):
        file.write(chunk)
