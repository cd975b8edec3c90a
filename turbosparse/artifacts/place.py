"""A folder on a disk or an object store, reached with patience: outages are waited out, up to a bound."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from turbosparse.artifacts.endpoint import connection_errors, error_code, open_filesystem
from turbosparse.artifacts.files import flush_folder, write_exclusively
from turbosparse.errors import ArtifactError

PATIENCE_SECONDS = 300.0
"""How long an operation is tried again before it counts as failed."""
PART_BYTES = 32 * 1024**2
"""What one request uploads. S3 allows 10,000 of them: files of up to 335 GB."""
NUM_TRANSFERS = 8
"""Files that are copied at the same time."""

_ABSENT = (FileNotFoundError, NotADirectoryError)
_FINAL = (*_ABSENT, FileExistsError, PermissionError, IsADirectoryError)
_FINAL_NUMBERS = (errno.EINVAL, errno.ENOSYS, errno.EROFS, errno.ENAMETOOLONG)
_CHANGED_ON_THE_WAY = ("BadDigest", "IncompleteBody")
"""How an object store refuses an upload that did not arrive as it was sent; s3fs says EINVAL."""
T = TypeVar("T")
Pieces = Callable[[], Iterable[bytes | memoryview]]
Verify = Callable[[str, Path], None]
"""Receives a file's name and a copy of it, and raises an ArtifactError where that is not the file."""


@dataclass(frozen=True)
class Place:
    """A folder behind a URI. Every operation is repeated while storage does not answer or is full.

    Raises (all of its methods):
        ArtifactError: Storage failed for as long as patience lasts, or refuses us.
    """

    fs: AbstractFileSystem
    base: str
    patience_seconds: float = PATIENCE_SECONDS

    @classmethod
    def open(cls, uri: str, patience_seconds: float = PATIENCE_SECONDS) -> "Place":
        """Returns the place behind an fsspec URI or a path; it need not exist."""
        fs, path = open_filesystem(uri)
        return cls(fs, path.rstrip("/"), patience_seconds)

    def below(self, *parts: str) -> "Place":
        """Returns a folder below this one."""
        return Place(self.fs, self.path(*parts), self.patience_seconds)

    @property
    def uri(self) -> str:
        """The place with its protocol."""
        return str(self.fs.unstrip_protocol(self.base))

    @property
    def local(self) -> Path | None:
        """The place as a path, where it is on this machine's disk."""
        return Path(self.base) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, *parts: str) -> str:
        """Returns the file system's name of what lies below."""
        return "/".join((self.base, *parts))

    def exists(self, *parts: str) -> bool:
        """Returns whether there is a file, or a folder that holds one."""
        try:
            self.patiently(lambda: self.fs.info(self.path(*parts)))
        except _ABSENT:
            return False
        return True

    def children(self, *parts: str) -> list[str]:
        """Returns the sorted names of what lies directly below; none where there is no such folder."""
        try:
            found = self.patiently(lambda: self.fs.ls(self.path(*parts), detail=False))
        except _ABSENT:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self, *parts: str) -> dict[str, int]:
        """Returns the bytes of every file below, by path from there."""
        home = self.path(*parts)
        found = self.patiently(lambda: self.fs.find(home, detail=True))
        return {path.removeprefix(f"{home}/"): info["size"] for path, info in found.items()}

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Returns a file's bytes from `start` to `end`; the whole file by default.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return self.patiently(lambda: bytes(self.fs.cat_file(self.path(path), start=start, end=end)))

    def write(self, path: str, pieces: Pieces) -> None:
        """Writes a file, flushed to the disk, from what `pieces()` yields: asked again for each attempt."""
        if self.local is None:
            self.patiently(lambda: self._upload(path, pieces))
        else:
            self.patiently(lambda: _write_file(Path(self.path(path)), pieces))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Writes a small file, flushed to the disk."""
        self.write(path, lambda: [content])

    def create(self, path: str, content: bytes) -> bool:
        """Writes a file at once and whole, unless there is another. Returns whether it is this one."""
        return self.patiently(lambda: write_exclusively(self.fs, self.path(path), content))

    def replace(self, path: str, content: bytes) -> None:
        """Writes a small file whole over what it was: readers see the one or the other."""
        if self.local is None:
            self.patiently(lambda: self.fs.pipe_file(self.path(path), content))
        else:
            self.patiently(lambda: _replace_file(Path(self.path(path)), content))

    def remove(self, *parts: str) -> None:
        """Deletes a file, or a folder with all that is below."""
        try:
            self.patiently(lambda: self._remove(self.path(*parts)))
        except _ABSENT:
            return

    def abort_uploads(self) -> None:
        """Deletes parts of uploads below that a killed writer began: they are paid for, and in no listing."""
        if hasattr(self.fs, "abort_mpu"):  # s3fs, whose import takes a second where no S3 is in use
            bucket, prefix, _ = self.fs.split_path(f"{self.base}/")
            list_uploads = partial(self.fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=prefix)
            for upload in self.patiently(list_uploads).get("Uploads", []):
                # A listing may be older than another one's abort.
                with suppress(*_ABSENT):
                    self.patiently(partial(self.fs.abort_mpu, bucket, upload["Key"], upload["UploadId"]))

    def upload(self, folder: Path, paths: Iterable[str]) -> None:
        """Copies files of a folder on this machine here, several at the same time."""

        def put(path: str) -> None:
            self.patiently(lambda: self.fs.put_file(str(folder / path), self.path(path)))

        _at_once(put, paths)

    def download(self, paths: Iterable[str], folder: Path, verify: Verify) -> None:
        """Copies files from here to a folder on this machine, each visible there once it is verified.

        Raises:
            ArtifactError: What arrived twice is not the file.
        """
        _at_once(lambda path: self._download(path, folder / path, verify), paths)

    def last_written(self, *parts: str) -> datetime | None:
        """Returns when an object store last received something below; None where there is nothing."""
        found = self.patiently(lambda: self.fs.find(self.path(*parts), detail=True))
        return max((info.get("LastModified", info.get("created")) for info in found.values()), default=None)

    def patiently(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns, repeating it while storage fails in a way that may pass."""
        retrying = Retrying(
            stop=stop_before_delay(self.patience_seconds),
            wait=wait_random_exponential(multiplier=0.25, max=20),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return retrying(work)
        except (*_ABSENT, FileExistsError):
            raise
        except (OSError, BotoCoreError, *connection_errors()) as error:
            expected = f"storage that answers, has space and lets us in ({error})"
            remedy = "mend that and run again: what is whole is kept"
            raise ArtifactError("storage", self.uri, expected, remedy) from error

    def _download(self, path: str, target: Path, verify: Verify) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")

        def get() -> None:
            self.patiently(lambda: self.fs.get_file(self.path(path), str(draft)))

        try:
            get()
            try:
                verify(path, draft)
            except ArtifactError:
                get()  # what was changed on the way arrives whole the next time
                verify(path, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _upload(self, path: str, pieces: Pieces) -> None:
        file = self.fs.open(self.path(path), "wb", block_size=PART_BYTES)
        try:
            for piece in pieces():
                file.write(piece)
        except BaseException:
            if isinstance(file, AbstractBufferedFile):
                file.closed = True  # or fsspec would complete the upload when it collects the object
            raise
        file.close()

    def _remove(self, path: str) -> None:
        if self.local is not None and Path(path).is_dir():
            shutil.rmtree(path)
            return
        self.fs.rm(path, recursive=True)


def _write_file(path: Path, pieces: Pieces) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in pieces():
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def _replace_file(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    _write_file(draft, lambda: [content])
    draft.replace(path)
    flush_folder(path.parent)


def _at_once(work: Callable[[str], None], paths: Iterable[str]) -> None:
    with ThreadPoolExecutor(NUM_TRANSFERS) as transfers:
        for _ in transfers.map(work, paths):
            pass


def _may_pass(error: BaseException) -> bool:
    if error_code(error) in _CHANGED_ON_THE_WAY:
        return True
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL) and error.errno not in _FINAL_NUMBERS
    return isinstance(error, (HTTPClientError, BotoConnectionError, *connection_errors()))
