"""Where instruction rows come from: the hub, this machine, or the user's own files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol

from turbosparse.data.conversations import Conversation, RowFile, list_files, read_files
from turbosparse.data.digest import digest_of
from turbosparse.data.hub_corpora import PinnedHub, described
from turbosparse.data.local_instructions import local_conversations, local_digest
from turbosparse.data.reading import format_of
from turbosparse.data.reading_folder import digest_content
from turbosparse.data.sources import SFT_SETS
from turbosparse.errors import DataError

LOCAL_SET = "local-documentation"


class InstructionRows(Protocol):
    """Sets of rows; the files behind them are listed once, so that what is digested is what is read."""

    def conversations(
        self,
        rejected: Counter[str],
        max_row_bytes: int,
        num_rows: Counter[str] | None = None,
        strict: bool = False,
    ) -> Iterator[Conversation]:
        """Yields the conversations of all sets in a fixed order.

        Args:
            rejected: counts rows that are no conversations, and files that can't be read, by reason.
            max_row_bytes: longest line of JSON; longer ones are counted as too long.
            num_rows: counts usable rows by set.
            strict: stops at the first of what `rejected` would count.

        Raises:
            DataError: a file has gone, strict reading met something broken, or not one row was usable.
        """
        ...

    def digest(self) -> str:
        """Returns the sha256 over what decides the conversations."""
        ...

    def describe(self) -> dict[str, str]:
        """Returns what stands behind each set, in words."""
        ...


def open_instructions_rows(kind: Literal["hub", "local", "folder"], place: str | None) -> InstructionRows:
    """Opens the instruction rows of a run; reads nothing but a folder's list of files.

    Args:
        kind: the paper's data sets on the hub, documentation on this machine, or the user's files.
        place: path or fsspec URI of a file or a folder; only `folder` looks at it.

    Raises:
        DataError: kind `folder` without a place, or one where no files of rows lie.
    """
    if kind == "hub":
        return HubRows()
    if kind == "local":
        return LocalRows()
    if place is None:
        raise DataError(
            "instructions",
            None,
            "a file or folder of instruction rows",
            "give one with --instructions or placement.instructions",
        )
    return FolderRows(place)


class FolderRows:
    """A file, or a folder of files: JSON lines (plain, gzip, zstd) or Parquet; each file is a set."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._files = list_files(place)

    def conversations(
        self,
        rejected: Counter[str],
        max_row_bytes: int,
        num_rows: Counter[str] | None = None,
        strict: bool = False,
    ) -> Iterator[Conversation]:
        """Yields the conversations of the files in name order.

        Raises:
            DataError: a file has gone, or not one row of all files was usable.
        """
        files = [RowFile(file.name, file.uri) for file in self._files]
        return read_files(files, self._place, rejected, max_row_bytes, num_rows, strict)

    def digest(self) -> str:
        """Returns the sha256 over the files' contents and forms; names and places have no part in it."""
        return digest_of(f"{digest_content(file)} {format_of(file.name)}" for file in self._files)

    def describe(self) -> dict[str, str]:
        """Returns the files with their sizes."""
        return {file.name: f"a file of {file.num_bytes:,} bytes" for file in self._files}


class HubRows:
    """The paper's data sets, read from the hub file by file at commits that are looked up once.

    Reference: Section 5 of the paper, "SFT datasets".
    """

    def __init__(self) -> None:
        self._hub = PinnedHub("finetune.instructions")

    def conversations(
        self,
        rejected: Counter[str],
        max_row_bytes: int,
        num_rows: Counter[str] | None = None,
        strict: bool = False,
    ) -> Iterator[Conversation]:
        """Yields the conversations of one set after the other; errors of the network travel.

        Raises:
            DataError: a hub that can't be reached, a data set without its files, or one without
                usable rows.
        """
        for one in SFT_SETS.values():
            files = [RowFile(one.name, uri, one.columns) for uri in self._hub.uris(one.hub)]
            place = f"{one.hub.dataset} at {self._hub.commit(one.hub)}"
            yield from read_files(files, place, rejected, max_row_bytes, num_rows, strict)

    def digest(self) -> str:
        """Returns the sha256 over the data sets' commits, their files, and how they are read.

        Raises:
            DataError: a hub that can't be reached, or a data set without its files.
        """
        return digest_of(
            f"{uri} {self._hub.commit(one.hub)} {' '.join(one.columns)}"
            for one in SFT_SETS.values()
            for uri in self._hub.uris(one.hub)
        )

    def describe(self) -> dict[str, str]:
        """Returns each set's data set, files and licence; bagel's forbids commercial use."""
        return {one.name: f"{described(one.hub)} ({one.licence})" for one in SFT_SETS.values()}


class LocalRows:
    """Documentation of Python and of installed packages: a stand-in where there is no network."""

    def conversations(
        self,
        rejected: Counter[str],  # noqa: ARG002 - as all rows
        max_row_bytes: int,  # noqa: ARG002 - as all rows
        num_rows: Counter[str] | None = None,
        strict: bool = False,  # noqa: ARG002 - as all rows
    ) -> Iterator[Conversation]:
        """Yields one conversation per documented function or class; all are usable.

        Raises:
            DataError: no source of Python's library is readable here.
        """
        for conversation in local_conversations():
            if num_rows is not None:
                num_rows[LOCAL_SET] += 1
            yield replace(conversation, set_name=LOCAL_SET)

    def digest(self) -> str:
        """Returns the sha256 over the versions of Python and of the packages."""
        return local_digest()

    def describe(self) -> dict[str, str]:
        """Returns that this is a stand-in."""
        return {LOCAL_SET: "documentation of Python and installed packages, not the paper's data sets"}
