"""Documents of one source file, cleaned and fingerprinted, kept as one group of a bounded size.

A group is the unit of work, of restart and of reuse: `documents.parquet` (one column `text`) beside
`signatures.npy`, which is all that finding duplicates needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from turbosparse.config.quality import QualityConfig
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.cleaning.duplicates import fingerprint
from turbosparse.data.cleaning.minhash import MinHash
from turbosparse.data.cleaning.quality import quality_problem
from turbosparse.data.cleaning.words import word_hashes
from turbosparse.data.layout import DOCUMENTS_NAME, SIGNATURES_NAME
from turbosparse.data.reading import Problem
from turbosparse.data.tally import Tally

ROW_GROUP_BYTES = 8_000_000
SCHEMA = pa.schema([("text", pa.string())])


@dataclass(frozen=True)
class Cleaning:
    """What a document must pass on its own; duplicates are found later, across all groups."""

    quality: QualityConfig | None = None
    minhash: MinHash | None = None
    """Adds near-duplicate signatures."""
    contamination: Contamination | None = None


class Rows:
    """A file's rows with a position, so that a later group finds its beginning again."""

    def __init__(self, rows: Iterator[str | Problem]) -> None:
        self._rows = rows
        self._ahead: list[str | Problem] = []
        self.position = 0
        """Rows taken so far."""

    def take(self) -> str | Problem | None:
        """Returns the next row; None at the end."""
        row = self._ahead.pop() if self._ahead else next(self._rows, None)
        self.position += row is not None
        return row

    def advance_to(self, position: int) -> None:
        """Passes over rows that an earlier run has dealt with."""
        assert position >= self.position, "rows are read forwards"
        while self.position < position and self.take() is not None:
            pass

    def is_at_end(self) -> bool:
        """Reads one row ahead to find out."""
        if not self._ahead:
            self._ahead = [row for row in (next(self._rows, None),) if row is not None]
        return not self._ahead


def write_group(rows: Rows, cleaning: Cleaning, group_bytes: int, folder: Path) -> dict[str, Any]:
    """Writes the next `group_bytes` of text (UTF-8, before cleaning) to `folder`.

    Returns:
        num_rows: rows taken, problems included; is_last: whether the file ends here; num_documents
        and num_bytes kept; dropped: a tally by reason.
    """
    start = rows.position
    with _GroupWriter(cleaning, folder) as group:
        while group.num_bytes_read < group_bytes and (row := rows.take()) is not None:
            if isinstance(row, Problem):
                group.add_problem(row)
            else:
                group.add_document(row)
    return {
        "num_rows": rows.position - start,
        "is_last": rows.is_at_end(),
        "num_documents": group.num_documents,
        "num_bytes": group.num_bytes,
        "dropped": group.dropped.as_dict(),
    }


class _GroupWriter:
    def __init__(self, cleaning: Cleaning, folder: Path) -> None:
        self._cleaning = cleaning
        self._folder = folder
        self._texts: list[str] = []
        self._pending_bytes = 0
        self._signatures: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self.dropped = Tally()
        self.num_documents = 0
        self.num_bytes = 0
        self.num_bytes_read = 0

    def __enter__(self) -> "_GroupWriter":
        self._parquet = pq.ParquetWriter(self._folder / DOCUMENTS_NAME, SCHEMA, compression="zstd")
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._parquet.close()
        columns = 2 if self._cleaning.minhash is None else 2 + self._cleaning.minhash.num_bands
        # Column by column: finding duplicates reads one column at a time.
        table = np.asfortranarray(np.array(self._signatures, np.uint64).reshape(-1, columns))
        np.save(self._folder / SIGNATURES_NAME, table, allow_pickle=False)

    def add_problem(self, problem: Problem) -> None:
        """Counts a row that gave no document."""
        self.num_bytes_read += len(problem.excerpt)
        self.dropped.add(problem.reason, f"{problem.where}: {problem.excerpt}")

    def add_document(self, text: str) -> None:
        """Keeps a document unless its own content speaks against it."""
        num_bytes = len(text.encode())
        self.num_bytes_read += num_bytes
        cleaning = self._cleaning
        if cleaning.quality is not None and (found := quality_problem(text, cleaning.quality)) is not None:
            self.dropped.add(found, text)
            return
        bands: list[Any] = []
        if cleaning.contamination is not None or cleaning.minhash is not None:
            words = word_hashes(text)
            if cleaning.contamination is not None and (task := cleaning.contamination.task_in(words)):
                self.dropped.add("contaminated", f"{task}: {text}")
                return
            bands = [cleaning.minhash.bands(words)] if cleaning.minhash is not None else []
        self._signatures.append(np.concatenate([np.array(fingerprint(text), np.uint64), *bands]))
        self._keep(text, num_bytes)

    def _keep(self, text: str, num_bytes: int) -> None:
        self._texts.append(text)
        self.num_documents += 1
        self.num_bytes += num_bytes
        self._pending_bytes += num_bytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._texts:
            self._parquet.write_table(pa.table({"text": self._texts}, schema=SCHEMA))
        self._texts, self._pending_bytes = [], 0


def read_group(folder: Path) -> Iterator[tuple[int, str]]:
    """Yields (row number, text) of a group's documents; holds one row group at a time."""
    number = 0
    with pq.ParquetFile(folder / DOCUMENTS_NAME) as parquet:
        for index in range(parquet.num_row_groups):
            for text in parquet.read_row_group(index).column("text").to_pylist():
                yield number, text
                number += 1
