"""Documents of one file, whichever form it has; rows that give none are named, never fatal."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, get_args

from turbosparse.data.reading_lines import EXCERPT_BYTES, DamagedFile, Line, open_watched, read_lines

FORMATS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")
"""JSON means one object per line."""

Reason = Literal[
    "not UTF-8",
    "not JSON",
    "no text field",
    "text not a string",
    "empty",
    "too long",
    "truncated file",
    "duplicate file",
    "empty file",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
EXCERPT_CHARACTERS = 120
# Few, because a row may be a book.
PARQUET_BATCH_ROWS = 16


@dataclass(frozen=True)
class Problem:
    """A row or a file that gave no document, and why."""

    reason: Reason
    where: str
    """`web.jsonl.gz, line 12`"""
    excerpt: str
    """At most 120 printable characters."""


class SourceFile(Protocol):
    """Some documents of one source that any process can read by itself; picklable."""

    @property
    def source(self) -> str:
        """Name of the source."""
        ...

    @property
    def name(self) -> str:
        """For people: `web_c4.jsonl (document 1 of 2)`."""
        ...

    @property
    def digest(self) -> str:
        """The sha256 over everything that decides what `read` yields."""
        ...

    def read(self, max_document_bytes: int) -> Iterator[str | Problem]:
        """Yields documents, and rows that gave none, in a fixed order."""
        ...


class Row(NamedTuple):
    """The columns of one row."""

    where: str
    values: dict[str, Any]
    shown: bytes | str
    """What an excerpt is taken from where the row has no text."""


def format_of(name: str) -> str | None:
    """Returns which of `FORMATS` the name ends with, or None."""
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def read_texts(uri: str, text_field: str, max_document_bytes: int) -> Iterator[str | Problem]:
    """Yields documents and problems of one file in order.

    Args:
        uri: path or fsspec URI of JSON lines (plain, gzip, zstd) or Parquet.
        text_field: the column that holds the document.
        max_document_bytes: longest text in UTF-8; of JSON, longest line. Longer ones are passed
            over without being held.

    Raises:
        DataError: there is no such file.
    """
    for row in read_rows(uri, [text_field], max_document_bytes):
        yield row if isinstance(row, Problem) else text_in(row, text_field, max_document_bytes)


def read_rows(uri: str, columns: Iterable[str], max_row_bytes: int) -> Iterator[Row | Problem]:
    """Yields rows and problems of one file in order.

    Args:
        uri: path or fsspec URI.
        columns: which columns of a Parquet file are read; JSON rows come whole.
        max_row_bytes: longest line of JSON.

    Raises:
        DataError: there is no such file.
    """
    name = PurePosixPath(uri).name
    rows = _parquet_rows(uri, columns) if uri.endswith(".parquet") else _json_rows(uri, max_row_bytes)
    try:
        yield from rows
    except DamagedFile as damage:
        yield Problem("truncated file", name, excerpt(str(damage)))


def text_in(row: Row, text_field: str, max_document_bytes: int) -> str | Problem:
    """Returns the row's document, or why it has none."""
    if text_field not in row.values:
        return Problem("no text field", row.where, excerpt(row.shown))
    return checked_text(row.values[text_field], row.where, max_document_bytes)


def checked_text(text: object, where: str, max_document_bytes: int) -> str | Problem:
    """Returns `text` if it is a document, else why it is none."""
    if not isinstance(text, str):
        return Problem("text not a string", where, excerpt(str(text)))
    if not text.strip():
        return Problem("empty", where, excerpt(text))
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        return Problem("not UTF-8", where, excerpt(text))
    return text if num_bytes <= max_document_bytes else Problem("too long", where, excerpt(text))


def excerpt(content: bytes | str) -> str:
    """Returns the beginning of `content` on one line; what can't be printed becomes a space."""
    text = content[:EXCERPT_BYTES].decode("utf-8", "replace") if isinstance(content, bytes) else content
    return "".join(c if c.isprintable() else " " for c in text[:EXCERPT_CHARACTERS])


def _json_rows(uri: str, max_line_bytes: int) -> Iterator[Row | Problem]:
    name = PurePosixPath(uri).name
    for number, line in enumerate(read_lines(uri, max_line_bytes), start=1):
        if line.content.strip():
            yield _json_row(line, f"{name}, line {number}")


def _json_row(line: Line, where: str) -> Row | Problem:
    shown = line.content[:EXCERPT_BYTES]
    if line.is_too_long:
        return Problem("too long", where, excerpt(shown))
    try:
        # A byte order mark is allowed: some editors begin a file with one.
        row = json.loads(line.content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Problem("not UTF-8", where, excerpt(shown))
    except (ValueError, RecursionError):
        return Problem("not JSON", where, excerpt(shown))
    return Row(where, row if isinstance(row, dict) else {}, shown)


def _parquet_rows(uri: str, columns: Iterable[str]) -> Iterator[Row | Problem]:
    import pyarrow as pa  # noqa: PLC0415 - a third of a second to import
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    name = PurePosixPath(uri).name
    with open_watched(uri) as file:
        try:
            parquet = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            shown = f"columns: {', '.join(parquet.schema_arrow.names)}"
            number = 0
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, columns=list(columns)):
                for index in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch, index, f"{name}, row {number}", shown)
        except (pa.ArrowException, OSError) as error:
            if file.has_failed:
                raise
            raise DamagedFile(str(error)) from error


def _parquet_row(batch: Any, index: int, where: str, shown: str) -> Row | Problem:
    try:
        return Row(where, {key: batch[key][index].as_py() for key in batch.schema.names}, shown)
    except UnicodeDecodeError:
        return Problem("not UTF-8", where, shown[:EXCERPT_CHARACTERS])
