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
        return self._read_verified(name, self.manifest.files[name].sha256)

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
        chunk, end = read.chunk, read.chunk.start_byte + read.chunk.num_bytes
        # As bytearray: a tensor wants memory that can be written.
        content = bytearray(self._read_verified(chunk.file, chunk.sha256, chunk.start_byte, end))
        values = torch.frombuffer(content, dtype=torch.uint8).view(DTYPES[read.dtype])
        read.use(values.reshape(chunk.sizes))

    def _read_verified(
        self, file: str, sha256: str, start: int | None = None, end: int | None = None
    ) -> bytes:
        content = self._read(file, start, end)
        if hashlib.sha256(content).hexdigest() != sha256:
            content = self._read(file, start, end)  # what was changed on the way arrives whole the next time
        self._verify(file, content, sha256)
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
