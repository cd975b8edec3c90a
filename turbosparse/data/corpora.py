"""Where a source's documents come from: the hub, this machine, or a folder of the user's files."""

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from turbosparse.data.folder_corpora import FolderCorpora
from turbosparse.data.hub_corpora import HubCorpora
from turbosparse.data.local_corpora import LocalCorpora
from turbosparse.data.reading import Problem, SourceFile
from turbosparse.errors import DataError

__all__ = ["Corpora", "SourceFile", "open_corpora"]


class Corpora(Protocol):
    """Files by source. Two sources may be given the same documents: whoever reads them sees to copies."""

    def files(self, source: str) -> list[SourceFile]:
        """Returns the source's files in a fixed order.

        Raises:
            DataError: there are none, or they may not be read.
        """
        ...

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 over the digests of the sources' files."""
        ...

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns what stands behind each source, in words."""
        ...

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns what is read instead of what, for the sources that are not read themselves."""
        ...

    def problems(self, sources: Iterable[str]) -> list[Problem]:
        """Returns the sources' files that are left out or hold nothing, known before they are read."""
        ...


def open_corpora(
    kind: Literal["hub", "local", "folder"],
    folder: str | None,
    substitutes: Mapping[str, str] | Literal["recorded", "none"] = "recorded",
) -> Corpora:
    """Opens the corpora of a run; reads nothing but a folder's list of files.

    Args:
        kind: the hub's data sets, text found on this machine, or a folder.
        folder: path or fsspec URI of a folder; only `folder` looks at it.
        substitutes: what to read for sources that were withdrawn: the substitutes recorded in
            `sources`, none at all, or for each source `recorded` or another source's name. Only
            `hub` looks at it.

    Raises:
        DataError: kind `folder` without a folder, or one that is missing or holds no files of
            text; substitutes that do not exist.
    """
    if kind == "hub":
        return HubCorpora(substitutes)
    if kind == "local":
        return LocalCorpora()
    if folder is None:
        raise DataError(
            "corpora", None, "a folder of text files", "give one with --corpora or placement.corpora"
        )
    return FolderCorpora(folder)
