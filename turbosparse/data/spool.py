"""One source's passages on disk, read back in shuffled order."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from turbosparse.data.documents import split_passages


class Spool:
    """Passages in a file; memory holds three integers (24 bytes) for each.

    The order follows a seeded hash of each passage's text, so it depends on no other passage.
    """

    def __init__(self, file: Path, documents: Iterable[str], seed: int, max_bytes: int) -> None:
        """Writes documents, long ones as passages, until `max_bytes` are reached."""
        self._file = file
        rows = array("Q")
        offset = 0
        with file.open("wb") as stream:
            for passage in _passages(documents):
                data = passage.encode("utf-8", "replace")
                stream.write(data)
                rows.extend((_hash(data, seed), offset, len(data)))
                offset += len(data)
                if offset >= max_bytes:
                    break
        self.num_bytes = offset
        table = np.frombuffer(rows, np.uint64).reshape(-1, 3)
        self._rows = table[np.argsort(table[:, 0], kind="stable")]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Iterator[str]:
        """Yields the passages from number `start` to `stop` of the shuffled order."""
        with self._file.open("rb") as stream:
            for _, offset, size in self._rows[start:stop].tolist():
                stream.seek(offset)
                yield stream.read(size).decode("utf-8")


def _passages(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        for passage in split_passages(document):
            if passage.strip():
                yield passage


def _hash(data: bytes, seed: int) -> int:
    digest = hashlib.blake2b(data, digest_size=8, key=seed.to_bytes(16, "big")).digest()
    return int.from_bytes(digest, "big")
