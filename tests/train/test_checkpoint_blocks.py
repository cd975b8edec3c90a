"""Blocks of tensors in row-major order."""

import math

import pytest
import torch

from turbosparse.train.checkpoints.blocks import contiguous_blocks, contiguous_runs

SHAPES = [(), (1,), (7,), (5, 3), (3, 7, 5), (2, 1, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_elements", [1, 4, 10, 1000])
def test_blocks_are_bounded_and_follow_each_other_in_row_major_order(shape, max_elements):
    whole = torch.arange(math.prod(shape)).reshape(shape)
    parts = []
    for offsets, sizes in contiguous_blocks(shape, max_elements):
        assert math.prod(sizes) <= max_elements
        block = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
        parts.append(block.flatten())
    assert torch.equal(torch.cat(parts), whole.flatten())


@pytest.mark.parametrize(
    ("shape", "offsets", "sizes", "num_runs"),
    [
        ((), (), (), 1),
        ((7,), (2,), (3,), 1),
        ((5, 3), (1, 0), (3, 3), 1),
        ((5, 3), (1, 1), (3, 2), 3),
        ((3, 7, 5), (0, 2, 0), (3, 4, 5), 3),
        ((3, 7, 5), (1, 2, 1), (2, 3, 2), 6),
        ((3, 7, 5), (1, 2, 1), (2, 0, 2), 0),
    ],
)
def test_runs_are_where_a_blocks_elements_lie_in_the_tensor(shape, offsets, sizes, num_runs):
    whole = torch.arange(math.prod(shape)).reshape(shape)
    block = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
    runs = list(contiguous_runs(shape, offsets, sizes))
    found = [element for first, length in runs for element in range(first, first + length)]
    assert found == block.flatten().tolist()
    assert len(runs) == num_runs
