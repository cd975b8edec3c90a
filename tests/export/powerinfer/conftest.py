"""A reader of GGUF v3 that knows nothing of the writer."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ENCODINGS = {0: "F32", 1: "F16", 2: "Q4_0", 8: "Q8_0", 18: "I32"}
"""As the engine's ggml.h has them; llama.cpp has since moved I32 to 26."""


@dataclass
class ReadTensor:
    encoding: str
    values: np.ndarray
    """Decoded; rows first."""
    offset: int


@dataclass
class ReadFile:
    magic: bytes
    version: int
    keys: dict[str, Any]
    kinds: dict[str, int]
    tensors: dict[str, ReadTensor]
    """In the file's order."""
    num_bytes: int
    end: int
    """Where the last tensor's padding ends."""


class Cursor:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def take(self, num_bytes: int) -> bytes:
        self.place += num_bytes
        assert self.place <= len(self.content)
        return self.content[self.place - num_bytes : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element, length = self.number("I"), self.number("Q")
            return [self.value(element) for _ in range(length)]
        return self.number(FORMATS[kind])


def decode(encoding: str, content: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Returns a tensor's values, and the bytes that it takes."""
    count = int(np.prod(shape))
    if encoding in ("F32", "F16", "I32"):
        dtype = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}[encoding]
        values = np.frombuffer(content, dtype, count)
        return values.reshape(shape), values.nbytes
    block_bytes = {"Q4_0": 18, "Q8_0": 34}[encoding]
    blocks = np.frombuffer(content, np.uint8, count // 32 * block_bytes).reshape(-1, block_bytes)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if encoding == "Q8_0":
        numbers = blocks[:, 2:].copy().view(np.int8)
    else:
        numbers = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.int8) - 8
    return (scale * numbers).reshape(shape), blocks.nbytes


def read(path) -> ReadFile:
    cursor = Cursor(path.read_bytes())
    magic, version = cursor.take(4), cursor.number("I")
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    keys, kinds = {}, {}
    for _ in range(num_keys):
        name, kind = cursor.string(), cursor.number("I")
        assert name not in keys
        keys[name], kinds[name] = cursor.value(kind), kind
    headers = []
    for _ in range(num_tensors):
        name, num_dims = cursor.string(), cursor.number("I")
        shape = tuple(cursor.number("Q") for _ in range(num_dims))[::-1]
        headers.append((name, shape, ENCODINGS[cursor.number("I")], cursor.number("Q")))
    start = end = -(-cursor.place // 32) * 32
    tensors = {}
    for name, shape, encoding, offset in headers:
        assert name not in tensors
        assert start + offset == end, f"{name} leaves a gap"
        values, num_bytes = decode(encoding, cursor.content[start + offset :], shape)
        tensors[name] = ReadTensor(encoding, values, offset)
        end = start + offset + -(-num_bytes // 32) * 32
    return ReadFile(magic, version, keys, kinds, tensors, len(cursor.content), end)


@pytest.fixture(scope="session")
def read_gguf():
    """Reads a file whole, every tensor decoded."""
    return read
