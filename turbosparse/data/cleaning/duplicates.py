"""Which documents of many files are copies, or near copies, of earlier ones.

Each file of signatures is an array of uint64, [num_documents, 2 + num_bands]: the two halves of the
text's 128-bit fingerprint, then its MinHash bands (no bands where near duplicates are not looked for).

Only hashes of one range of values are held at a time: less memory means more passes over the files.
Columns are read one by one, so an array saved in Fortran order is read once where one in C order is
read once for each column.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from turbosparse.data.cleaning.minhash import NO_BAND

NUM_FINGERPRINT_COLUMNS = 2
SAMPLES_PER_FILE = 3
_NUM_HASHES = 1 << 64

Rows = NDArray[np.int64]
Keys = NDArray[np.uint64]


def fingerprint(text: str) -> tuple[int, int]:
    """Returns the two 64-bit halves of a 128-bit BLAKE2b of the text's UTF-8."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@dataclass(frozen=True)
class Duplicates:
    """What one file's documents repeat. Row numbers ascend; no row is in both arrays."""

    exact: Rows
    """Rows of the same text as an earlier document."""
    near: Rows
    """Rows that share a band with an earlier document."""
    first: Mapping[int, tuple[int, int]]
    """(file, row) of the document that it repeats, for the first `SAMPLES_PER_FILE` rows of each kind."""


def find_duplicates(signatures: Sequence[Path], max_rows_in_memory: int = 20_000_000) -> list[Duplicates]:
    """Returns what is to be dropped from each file, in the files' order.

    A document is an exact duplicate if an earlier one, of this file or of a file before, has its
    fingerprint. Any other is a near duplicate if it shares a band with an earlier document that is
    no exact duplicate. So files added at the end change nothing for those before; and of a chain of
    documents, each similar to the next, only the first is kept.

    Takes some 100 bytes for each of `max_rows_in_memory`, and 2 bytes for each document; the result
    does not depend on `max_rows_in_memory`.

    Args:
        signatures: one `.npy` file per group of documents, all with the same number of columns.
        max_rows_in_memory: hashes held at a time.
    """
    table = _Table(signatures, max_rows_in_memory)
    exact, near = _Repeats(table.starts), _Repeats(table.starts)
    table.find(exact, slice(0, NUM_FINGERPRINT_COLUMNS))
    for column in range(NUM_FINGERPRINT_COLUMNS, table.num_columns):
        table.find(near, slice(column, column + 1), left_out=exact.is_repeat, ignored=NO_BAND)
    return [
        Duplicates(exact.rows(file), near.rows(file), exact.first(file) | near.first(file))
        for file in range(len(signatures))
    ]


class _Repeats:
    """Documents that repeat an earlier one. Documents are numbered across all files."""

    def __init__(self, starts: Rows) -> None:
        self._starts = starts
        self._samples: list[dict[int, int]] = [{} for _ in starts[1:]]
        self.is_repeat = np.zeros(starts[-1], bool)

    def add(self, numbers: Rows, originals: Rows) -> None:
        """Adds documents with those that they repeat, both [num_repeats]."""
        self.is_repeat[numbers] = True
        order = np.argsort(numbers)
        numbers, originals = numbers[order], originals[order]
        bounds = np.searchsorted(numbers, self._starts)
        for file in np.flatnonzero(np.diff(bounds)):
            few = slice(bounds[file], min(bounds[file + 1], bounds[file] + SAMPLES_PER_FILE))
            found = dict(zip(numbers[few].tolist(), originals[few].tolist(), strict=True))
            # What an earlier band found stays, whatever the number of passes.
            found |= self._samples[file]
            self._samples[file] = {number: found[number] for number in sorted(found)[:SAMPLES_PER_FILE]}

    def rows(self, file: int) -> Rows:
        """Returns one file's rows that repeat a document."""
        return np.flatnonzero(self.is_repeat[self._starts[file] : self._starts[file + 1]])

    def first(self, file: int) -> dict[int, tuple[int, int]]:
        """Returns the place of what the first of these rows repeat."""
        samples = self._samples[file].items()
        return {self._place(number)[1]: self._place(original) for number, original in samples}

    def _place(self, number: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, number, side="right")) - 1
        return file, number - int(self._starts[file])


class _Table:
    """The rows of all files."""

    def __init__(self, files: Sequence[Path], max_rows: int) -> None:
        assert max_rows >= 1
        shapes = [_open(file).shape for file in files]
        assert len({num_columns for _, num_columns in shapes}) <= 1, "files with and without bands"
        self._files = files
        self._max_rows = max_rows
        self.num_columns = shapes[0][1] if shapes else NUM_FINGERPRINT_COLUMNS
        self.starts: Rows = np.cumsum([0, *(num_rows for num_rows, _ in shapes)], dtype=np.int64)

    def find(
        self,
        repeats: _Repeats,
        columns: slice,
        left_out: NDArray[np.bool_] | None = None,
        ignored: int | None = None,
    ) -> None:
        """Adds to `repeats` the documents that agree in these columns with an earlier one.

        Args:
            repeats: receives them.
            columns: which values must agree.
            left_out: documents that take no part, [num_documents].
            ignored: a value that agrees with nothing.
        """
        # Half of the memory is for keys seen before, half for those just read.
        num_parts = 2 * int(self.starts[-1]) // self._max_rows + 1
        for part in range(num_parts):
            seen = _Seen(repeats, self._max_rows)
            low, high = (_NUM_HASHES * edge // num_parts for edge in (part, part + 1))
            for numbers, keys in self._scan(columns):
                wanted = (keys[:, 0] >= np.uint64(low)) & (keys[:, 0] <= np.uint64(high - 1))
                if left_out is not None:
                    wanted &= ~left_out[numbers]
                if ignored is not None:
                    wanted &= keys[:, 0] != ignored
                seen.add(numbers[wanted], keys[wanted])
            seen.settle()

    def _scan(self, columns: slice) -> Iterator[tuple[Rows, Keys]]:
        """Yields document numbers, [num_rows], and keys, [num_rows, num_columns], in order."""
        block = max(self._max_rows // 2, 1)
        for file, start in zip(self._files, self.starts.tolist(), strict=False):
            # Opened anew each time: maps kept open exceed the limit of open files at a thousand files.
            rows = _open(file)
            for first in range(0, len(rows), block):
                keys = np.array(rows[first : first + block, columns])
                yield np.arange(start + first, start + first + len(keys)), keys


class _Seen:
    """Keys read so far, each kept only with the first document that has it."""

    def __init__(self, repeats: _Repeats, max_rows: int) -> None:
        self._repeats = repeats
        self._max_rows = max_rows
        self._blocks: list[tuple[Rows, Keys]] = []
        self._num_rows = 0

    def add(self, numbers: Rows, keys: Keys) -> None:
        """Takes the next documents."""
        self._blocks.append((numbers, keys))
        self._num_rows += len(numbers)
        if self._num_rows > self._max_rows:
            self.settle()

    def settle(self) -> None:
        """Reports the documents whose key was there before, and forgets them."""
        if not self._num_rows:
            return
        numbers = np.concatenate([numbers for numbers, _ in self._blocks])
        keys = np.concatenate([keys for _, keys in self._blocks])
        self._blocks = []
        # Stable: of equal keys, the one read first stays first.
        order = np.lexsort(tuple(keys.T))
        numbers, keys = numbers[order], keys[order]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        originals = numbers[is_first][np.cumsum(is_first) - 1]
        self._repeats.add(numbers[~is_first], originals[~is_first])
        self._blocks = [(numbers[is_first], keys[is_first])]
        self._num_rows = len(self._blocks[0][0])


def _open(file: Path) -> NDArray[np.uint64]:
    table: NDArray[np.uint64] = np.load(file, mmap_mode="r", allow_pickle=False)
    return table
