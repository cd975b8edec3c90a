"""One data file of the Hugging Face hub, streamed.

It is read by our own readers, not by `datasets`: those take a JSON file's first rows for its schema and
end at the first row that differs or is broken, and need one more package for zstd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from turbosparse.data.digest import digest_of
from turbosparse.data.reading import Problem, Row, read_rows, text_in
from turbosparse.data.sources import HubFiles
from turbosparse.errors import DataError

NUM_PROBED_ROWS = 1_000
"""Rows without what the registry says they have, after which the data set counts as changed."""


@dataclass(frozen=True)
class HubFile:
    """The rows of one file that belong to a source; nothing is kept on disk."""

    source: str
    uri: str
    """`hf://` with the commit, a URL, or a path."""
    hub: HubFiles
    commit: str

    @property
    def name(self) -> str:
        """Data set and file."""
        return f"{self.hub.dataset}: {PurePosixPath(self.uri).name}"

    @property
    def digest(self) -> str:
        """The sha256 of where the file lies, its data set's commit, and how it is read."""
        hub = self.hub
        lines = [self.uri, self.commit, hub.builder, hub.text_field]
        return digest_of([*lines, str(hub.filter_field), *hub.filter_values])

    def read(self, max_document_bytes: int) -> Iterator[str | Problem]:
        """Yields the source's documents and problems as they arrive; rows of other sources are skipped.

        Errors of the network travel.

        Raises:
            DataError: not one of the first rows has the columns that the registry names.
        """
        num_rows, is_as_recorded = 0, False
        for row in read_rows(self.uri, self._columns, max_document_bytes):
            if isinstance(row, Problem):
                yield row
                continue
            num_rows += 1
            is_as_recorded = is_as_recorded or self._has_columns(row)
            if num_rows == NUM_PROBED_ROWS and not is_as_recorded:
                break
            if self._belongs(row):
                yield text_in(row, self.hub.text_field, max_document_bytes)
        if num_rows and not is_as_recorded:
            raise self._changed(num_rows)

    @property
    def _columns(self) -> list[str]:
        return [field.partition(".")[0] for field in (self.hub.text_field, self.hub.filter_field) if field]

    def _has_columns(self, row: Row) -> bool:
        hub = self.hub
        has_filter = hub.filter_field is None or _value(row.values, hub.filter_field) is not None
        return has_filter and isinstance(row.values.get(hub.text_field), str)

    def _belongs(self, row: Row) -> bool:
        hub = self.hub
        return hub.filter_field is None or _value(row.values, hub.filter_field) in hub.filter_values

    def _changed(self, num_rows: int) -> DataError:
        hub = self.hub
        columns = " and ".join(f"`{field}`" for field in (hub.text_field, hub.filter_field) if field)
        return DataError(
            f"{self.source} ({self.name} at {self.commit})",
            f"{num_rows} rows, none with {columns}",
            f"rows with {columns}",
            "the data set has changed: give the source's text with data.corpora=folder",
        )


def _value(row: dict[str, Any], dotted: str) -> Any:
    value: Any = row
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
