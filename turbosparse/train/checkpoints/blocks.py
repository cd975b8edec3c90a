"""Blocks of tensors: where they begin, how large they are, and their elements in row-major order."""

import math
from collections.abc import Iterator

Offsets = tuple[int, ...]
Sizes = tuple[int, ...]


def contiguous_blocks(shape: Sizes, max_elements: int) -> Iterator[tuple[Offsets, Sizes]]:
    """Yields (offsets, sizes) of blocks of at most `max_elements`, in row-major order, without gaps."""
    if math.prod(shape) <= max_elements:
        yield (0,) * len(shape), shape
        return
    num_rows, *rest = shape
    row_elements = math.prod(rest)
    if row_elements > max_elements:
        for row in range(num_rows):
            for offsets, sizes in contiguous_blocks(tuple(rest), max_elements):
                yield (row, *offsets), (1, *sizes)
        return
    step = max_elements // row_elements
    for row in range(0, num_rows, step):
        yield (row, *(0 for _ in rest)), (min(step, num_rows - row), *rest)


def contiguous_runs(shape: Sizes, offsets: Offsets, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Yields (first element in the tensor, number of elements) of a block's runs in row-major order."""
    if math.prod(sizes) == 0:
        return
    if sizes[1:] == shape[1:]:
        row_elements = math.prod(shape[1:])
        yield sum(offsets[:1]) * row_elements, math.prod(sizes)
        return
    row_elements = math.prod(shape[1:])
    for row in range(offsets[0], offsets[0] + sizes[0]):
        for start, length in contiguous_runs(shape[1:], offsets[1:], sizes[1:]):
            yield row * row_elements + start, length
