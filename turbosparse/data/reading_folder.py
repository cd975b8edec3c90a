"""A folder of files on disk or behind an fsspec URI: what it holds, and digests of contents."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from botocore.exceptions import BotoCoreError
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from turbosparse.config.uri import check_uri
from turbosparse.data.reading import format_of
from turbosparse.errors import DataError


@dataclass(frozen=True)
class ListedFile:
    """A file of a folder."""

    name: str
    """Relative to the folder."""
    uri: str
    """A plain path where the folder is on disk."""
    num_bytes: int


class Folder:
    """A folder of the user's files; nothing in it is opened until it is asked for."""

    def __init__(self, uri: str) -> None:
        """Opens the folder.

        Raises:
            DataError: there is no such folder, or nobody to ask for it.
            ConfigError: the URI may not be opened.
        """
        if "://" in uri:
            check_uri(uri, "corpora")
        try:
            self._file_system, self._root = url_to_fs(uri)
            # Another part of this process may have listed the folder before files were added.
            self._file_system.invalidate_cache()
            is_folder = self._file_system.isdir(self._root)
        except (ValueError, ImportError, OSError, BotoCoreError) as error:
            raise _not_a_folder(uri, str(error)) from error
        if not is_folder:
            raise _not_a_folder(uri, "no folder is found")
        self.uri = uri

    def names(self) -> list[str]:
        """Returns the names of the files that can be read as text, sorted; subfolders apart."""
        found = self._file_system.ls(self._root, detail=True)
        names = sorted(PurePosixPath(info["name"]).name for info in found if info["type"] != "directory")
        return [name for name in names if format_of(name) and not name.startswith(".") and self._has(name)]

    def find(self, name: str) -> ListedFile | None:
        """Returns the file called `name`, in a subfolder too, or None."""
        if not self._has(name):
            return None
        path = self._path(name)
        return ListedFile(name, self._uri(path), int(self._file_system.size(path)))

    def read(self, name: str) -> bytes | None:
        """Returns a small file's bytes, or None where there is no such file."""
        return bytes(self._file_system.cat_file(self._path(name))) if self._has(name) else None

    def _has(self, name: str) -> bool:
        # Follows links, of which the listing says neither file nor folder.
        return bool(self._file_system.isfile(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _uri(self, path: str) -> str:
        is_local = isinstance(self._file_system, LocalFileSystem)
        return path if is_local else str(self._file_system.unstrip_protocol(path))


def digest_content(file: ListedFile) -> str:
    """Returns the sha256 of a file on disk; of others what their store vouches for, and the size.

    A remote file is not downloaded for it: stores keep an ETag or the time of the last change.
    """
    file_system, path = url_to_fs(file.uri)
    if not isinstance(file_system, LocalFileSystem):
        return f"{file_system.checksum(path)} {file.num_bytes}"
    status = Path(path).stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: str, num_bytes: int, changed_nanoseconds: int) -> str:  # noqa: ARG001 - keys of the cache
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_a_folder(uri: str, why: str) -> DataError:
    return DataError(
        "corpora", uri, f"an existing folder ({why})", "check the path, and the credentials of a remote one"
    )
