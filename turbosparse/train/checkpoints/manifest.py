"""What a checkpoint is made of, as its checkpoint.json says: written last, it is the commit."""

import math
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import ConfigDict, Field, model_validator

from turbosparse.artifacts.manifest import FileRecord, RelativePath
from turbosparse.config.base import Config

MANIFEST = "checkpoint.json"

Sizes = tuple[Annotated[int, Ge(0)], ...]


class Chunk(Config):
    """A block of a tensor, row-major in a range of bytes of one rank's file."""

    offsets: Sizes
    """Where the block begins in the tensor."""
    sizes: Sizes
    file: RelativePath
    """Below the attempt's folder."""
    start_byte: Annotated[int, Ge(0)]
    num_bytes: Annotated[int, Gt(0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TensorRecord(Config):
    """A tensor and the chunks that cover it, each element once."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Sizes
    chunks: tuple[Chunk, ...]

    @model_validator(mode="after")
    def _is_covered(self) -> "TensorRecord":
        if sum(math.prod(chunk.sizes) for chunk in self.chunks) != math.prod(self.shape):
            raise ValueError("chunks as many elements as the tensor has")
        return self


class CheckpointManifest(Config):
    """A whole checkpoint: a step folder without one was never finished."""

    # A loss or a bound may be infinite; JSON's null would come back as something else.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    identity: str
    """The artifact whose training this is."""
    step: Annotated[int, Ge(0)]
    num_ranks: Annotated[int, Gt(0)]
    """Ranks that wrote it. Any number may read it."""
    created_at: str
    """UTC, ISO 8601."""
    attempt: Annotated[str, Field(pattern=r"^attempt-[A-Za-z0-9._-]+$")]
    """The folder that holds this checkpoint's files."""
    record: dict[str, Any]
    """What training remembers beside its tensors."""
    files: dict[RelativePath, FileRecord]
    """Small files beside the tensors, such as the model's config.json."""
    shard_bytes: dict[RelativePath, int]
    """The ranks' files and their sizes."""
    tensors: dict[str, TensorRecord]

    def file_sizes(self) -> dict[str, int]:
        """Returns every file's size, by path below the attempt's folder."""
        return self.shard_bytes | {path: record.size_bytes for path, record in self.files.items()}
