"""Where a source's documents come from: the hub, this machine, or a folder of JSONL files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol

from turbosparse.data.folder_corpora import FolderCorpora
from turbosparse.data.hub_corpora import HubCorpora
from turbosparse.data.local_corpora import LocalCorpora
from turbosparse.errors import DataError


class Corpora(Protocol):
    """Documents by source, each handed to one source only."""

    def documents(self, source: str) -> Iterator[str]:
        """Yields the source's documents in a fixed order.

        Exact copies are left out: of its own documents, and of those that other sources have
        already been given. Asking again yields the same documents.
        """
        ...

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 of what these documents depend on, without going through them."""
        ...

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns what stands behind each source, in words."""
        ...


def open_corpora(kind: Literal["hub", "local", "folder"], folder: str | None) -> Corpora:
    """Opens the corpora of a run; reads nothing but the first line of a folder's files.

    Args:
        kind: the hub's data sets, text found on this machine, or a folder.
        folder: folder of `*.jsonl` files; only `folder` looks at it.

    Raises:
        DataError: kind `folder` without a folder, or one that is missing or holds no text.
    """
    if kind == "hub":
        return HubCorpora()
    if kind == "local":
        return LocalCorpora()
    if folder is None:
        raise DataError(
            "corpora", None, "a folder of *.jsonl files", "give one with --corpora or placement.corpora"
        )
    return FolderCorpora(Path(folder))
