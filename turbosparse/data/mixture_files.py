"""A prepared corpus's mixture read back and checked: how much each source has, and in which order."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import ValidationError

from turbosparse.config.base import Config
from turbosparse.data.layout import MIXTURE_NAME, ORDER_NAME
from turbosparse.errors import DataError

Counts = dict[str, Annotated[int, Ge(0)]]
REMEDY = "prepare the corpus again"


class MixtureRecord(Config):
    """A corpus's mixture.json."""

    on_disk: Counts
    """Sequences that each source has, in the order in which they lie in the shards."""
    sequences: Counts
    """Sequences that each source gives to an epoch."""
    sequence_length: Annotated[int, Gt(0)]
    """Tokens."""


def read_mixture(folder: Path) -> MixtureRecord:
    """Returns what a prepared corpus says of its sources.

    Raises:
        DataError: There is no such corpus, or its record contradicts itself.
    """
    file = folder / MIXTURE_NAME
    if not file.is_file():
        raise DataError("corpus", str(folder), f"a prepared corpus with {MIXTURE_NAME}", "prepare it first")
    try:
        record = MixtureRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(str(file), first["loc"], f"counts by source ({first['msg']})", REMEDY) from error
    if record.on_disk.keys() != record.sequences.keys() or not sum(record.sequences.values()):
        raise DataError(str(file), sorted(record.sequences), f"counts for {sorted(record.on_disk)}", REMEDY)
    return record


def read_order(folder: Path, num_sources: int) -> NDArray[np.integer[Any]]:
    """Returns the number of the source at each position of an epoch, [num_sequences].

    Raises:
        DataError: The file is damaged, or names a source that there is not.
    """
    file = folder / ORDER_NAME
    try:
        order: NDArray[Any] = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy's reader raises whatever it meets, SyntaxError too
        raise DataError(str(file), "damaged", f"an array ({error})", REMEDY) from error
    is_right = order.ndim == 1 and np.issubdtype(order.dtype, np.integer) and len(order) > 0
    if not is_right or order.min() < 0 or order.max() >= num_sources:
        found = f"{order.dtype} {list(order.shape)}"
        raise DataError(str(file), found, f"numbers of {num_sources} sources, one for each position", REMEDY)
    return order
