"""GGUF files of PowerInfer, written tensor by tensor."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Encoding
from gguf import GGUFValueType as Kind
from gguf import GGUFWriter

from turbosparse.export.powerinfer.tensors import EncodedTensor

SPARSE_MAGIC, DENSE_MAGIC = b"PWRI", b"GGUF"
ENGINE_CODES = {Encoding.I32: Encoding(18)}
"""Where the engine, which is of 2023, counts encodings otherwise than the gguf package: its I32 is 18."""

Keys = dict[str, tuple[Any, Kind]]
"""A file's values and their types by key; arrays take their type from their first element."""


def write_gguf(
    path: Path, architecture: str, keys: Keys, tensors: Iterable[EncodedTensor], magic: bytes = SPARSE_MAGIC
) -> None:
    """Writes a GGUF v3 file, little endian, aligned to 32 bytes, holding one tensor at a time."""
    planned = list(tensors)
    writer = GGUFWriter(path, architecture)
    for key, (value, kind) in keys.items():
        writer.add_key_value(key, value, kind)
    for tensor in planned:
        dtype = np.dtype(np.float32)  # without a meaning beside raw_dtype
        code = ENGINE_CODES.get(tensor.encoding, tensor.encoding)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.num_bytes, raw_dtype=code)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
        for tensor in planned:
            content = tensor.read()
            assert content.nbytes == tensor.num_bytes, tensor.name
            # Not numpy's tofile: on a full disk it forgets the error's number.
            file.write(np.ascontiguousarray(content).data)
            writer.write_padding(file, content.nbytes)
        file.seek(0)
        file.write(magic)
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()
