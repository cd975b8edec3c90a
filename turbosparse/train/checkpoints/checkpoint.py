"""A committed checkpoint, for those who read it."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from turbosparse.artifacts.place import Place
from turbosparse.artifacts.tensor_files import DTYPES
from turbosparse.errors import ArtifactError
from turbosparse.train.checkpoints.manifest import CheckpointManifest, Chunk

NUM_READERS = 8
"""Chunks that are read at the same time: object stores answer one request slowly, many fast."""


class ChunkRead(NamedTuple):
    """A chunk that is to be read."""

    chunk: Chunk
    dtype: str
    """Of its tensor, as in the manifest."""
    use: Callable[[Tensor], None]
    """Receives the chunk's values, on some thread."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint behind a URI."""

    place: Place
    manifest: CheckpointManifest

    @property
    def uri(self) -> str:
        """The checkpoint's folder."""
        return self.place.uri

    @property
    def step(self) -> int:
        """Optimizer steps that were done when it was written."""
        return self.manifest.step

    @property
    def record(self) -> dict[str, Any]:
        """What training remembered beside its tensors."""
        return self.manifest.record

    def file(self, name: str) -> bytes:
        """Returns one of the small files beside the tensors, its digest checked.

        Raises:
            ArtifactError: There is no such file, or it is not what was written.
        """
        if name not in self.manifest.files:
            raise ArtifactError(
                "checkpoint", self.uri, f"one with {name}", "give the stage's own checkpoints"
            )
        content = self._read(name)
        self._verify(name, content, self.manifest.files[name].sha256)
        return content

    def read_chunks(self, reads: Iterable[ChunkRead]) -> None:
        """Reads chunks, several at once on threads, and hands each to whoever wants it.

        Only the chunks that are being read or used are in memory.

        Raises:
            ArtifactError: A file is missing, or its bytes are not what was written.
        """
        with ThreadPoolExecutor(NUM_READERS) as readers:
            pending = [readers.submit(self._read_chunk, read) for read in reads]
            try:
                for outcome in pending:
                    outcome.result()
            except BaseException:
                readers.shutdown(cancel_futures=True)
                raise

    def _read_chunk(self, read: ChunkRead) -> None:
        content = bytearray(self._read_verified(read.chunk))  # a tensor wants memory that can be written
        values = torch.frombuffer(content, dtype=torch.uint8).view(DTYPES[read.dtype])
        read.use(values.reshape(read.chunk.sizes))

    def _read_verified(self, chunk: Chunk) -> bytes:
        content = self._read(chunk.file, chunk.start_byte, chunk.start_byte + chunk.num_bytes)
        self._verify(chunk.file, content, chunk.sha256)
        return content

    def _read(self, file: str, start: int | None = None, end: int | None = None) -> bytes:
        try:
            return self.place.read(f"{self.manifest.attempt}/{file}", start, end)
        except FileNotFoundError as error:
            raise self._damaged(file, "missing", "the file that was written") from error

    def _verify(self, file: str, content: bytes, sha256: str) -> None:
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            raise self._damaged(file, f"sha256 {actual}", f"sha256 {sha256}")

    def _damaged(self, file: str, found: str, expected: str) -> ArtifactError:
        remedy = f"delete {self.uri} and run again: the run resumes from the checkpoint before it"
        return ArtifactError(f"{self.uri}/{self.manifest.attempt}/{file}", found, expected, remedy)
