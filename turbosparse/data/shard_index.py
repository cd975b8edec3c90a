"""The index of MDS shards: a file from outside that names files and says how they are decoded."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from turbosparse.errors import DataError

COLUMN_KINDS = ("ndarray", "int")
"""Encodings that our shards use. MDS knows others too, among them pickles, which run code when read."""


def read_shards(index: Path) -> list[dict[str, Any]]:
    """Returns the shards of an MDS index, in its order.

    Raises:
        DataError: It is no such index, a shard would lie outside of the folder, or a column would be
            decoded by anything but arrays and numbers.
    """
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
        for shard in shards:
            _check(shard)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = f"an index of MDS shards, columns of {' and '.join(COLUMN_KINDS)}, files below it"
        raise DataError("shards", str(index), f"{expected} ({error})", "prepare the data again") from error
    return list(shards)


def _check(shard: dict[str, Any]) -> None:
    if shard["format"] != "mds" or shard["compression"] is not None:
        raise ValueError(f"a shard of format {shard['format']!r}, compression {shard['compression']!r}")
    for encoding in shard["column_encodings"]:
        if encoding.partition(":")[0] not in COLUMN_KINDS:
            raise ValueError(f"a column encoded as {encoding!r}")
    path = PurePosixPath(shard["raw_data"]["basename"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"a shard at {str(path)!r}")
