"""Lines of text files, compressed or not, wherever they lie; memory does not grow with a line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fsspec.core import url_to_fs

from turbosparse.config.uri import check_uri
from turbosparse.errors import DataError

CHUNK_BYTES = 1 << 20
EXCERPT_BYTES = 480
CODECS = {".gz": "gzip", ".zst": "zstd"}


class DamagedFile(Exception):
    """A file that ends early or can't be decompressed; what was read before it is sound."""


class Line(NamedTuple):
    """A line without its end; of one that is too long only the beginning is kept."""

    content: bytes
    is_too_long: bool


class WatchedFile:
    """A binary file that remembers whether reading it failed, so that this is not taken for damage."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.has_failed = False

    def read(self, size: int = -1) -> bytes:
        """Returns at most `size` bytes; errors of the file system travel."""
        try:
            return bytes(self._file.read(size))
        except Exception:
            self.has_failed = True
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def open_watched(uri: str) -> Iterator[WatchedFile]:
    """Opens a path or an fsspec URI for reading.

    Raises:
        DataError: there is no such file, or it may not be read.
        ConfigError: the URI may not be opened.
    """
    if "://" in uri:
        check_uri(uri, "uri")
    file_system, path = url_to_fs(uri)
    try:
        file = file_system.open(path, "rb")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(
            "corpora", uri, "a file that can be read", "check that it is still there and its permissions"
        ) from error
    with file:
        yield WatchedFile(file)


def read_lines(uri: str, max_line_bytes: int) -> Iterator[Line]:
    """Yields a file's lines in order; `.gz` and `.zst` are decompressed as they are read.

    Raises:
        DataError: there is no such file.
        DamagedFile: after the last line before the damage.
    """
    codec = next((codec for suffix, codec in CODECS.items() if uri.endswith(suffix)), None)
    with open_watched(uri) as file:
        chunks = _decompressed(file, codec) if codec else iter(lambda: file.read(CHUNK_BYTES), b"")
        yield from split_lines(chunks, max_line_bytes)


def split_lines(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[Line]:
    """Yields the lines of a stream; holds at most one chunk and one line that is not too long."""
    held, is_too_long = bytearray(), False
    for chunk in chunks:
        for number, part in enumerate(chunk.split(b"\n")):
            if number:
                yield Line(bytes(held), is_too_long)
                held, is_too_long = bytearray(), False
            if not is_too_long and len(held) + len(part) > max_line_bytes:
                is_too_long = True
                held = held[:EXCERPT_BYTES] + part[:EXCERPT_BYTES]
            elif not is_too_long:
                held += part
    if held:
        yield Line(bytes(held), is_too_long)


def _decompressed(file: WatchedFile, codec: str) -> Iterator[bytes]:
    """Yields what a gzip or zstd file holds, members or frames one after the other."""
    import pyarrow as pa  # noqa: PLC0415 - a third of a second to import

    stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)
    while True:
        buffer = bytearray(CHUNK_BYTES)
        try:
            size = stream.readinto(buffer)
        except OSError as error:
            if file.has_failed:
                raise
            # Arrow hears of the damage after it has written what came before it; JSON has no zeros.
            yield bytes(buffer.rstrip(b"\0"))
            raise DamagedFile(str(error)) from error
        if not size:
            return
        yield bytes(memoryview(buffer)[:size])
