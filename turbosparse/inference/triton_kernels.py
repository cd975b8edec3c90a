"""The CUDA backend of turbosparse::sparse_ffn, in Triton. Importing this registers it.

Quantised weights have no kernel here: they take the operator's reference.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from turbosparse.inference.operators import sparse_ffn_reference

BLOCK_COLUMNS = 1_024
"""Columns that a program takes at once: of a row in the dot products, of the output in the sum."""
NUM_SPLITS = 64
"""Parts of the neurons whose rows of down_t are summed apart: work enough for every multiprocessor."""


@triton.jit
def _dot(row, x, hidden_size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns the dot product of two rows, in fp32."""
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, hidden_size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < hidden_size
        weights = tl.load(row + columns, mask=inside, other=0.0).to(tl.float32)
        sums += weights * tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.sum(sums)


@triton.jit
def _multiply_neuron(  # type: ignore[no-untyped-def] # noqa: PLR0913, PLR0917 - a kernel takes pointers and sizes
    x, gate, up, active, gated, combined, hidden_size, intermediate_size, gate_stride, up_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes one neuron's relu(gate) and its product with relu(up), for one token; reads what it must."""
    neuron = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1).to(tl.int64)
    place = token * intermediate_size + neuron
    if tl.load(active + place) != 0:
        row = x + token * hidden_size
        opened = tl.maximum(_dot(gate + neuron * gate_stride, row, hidden_size, BLOCK), 0.0)
        tl.store(gated + place, opened)
        if opened > 0.0:
            raised = tl.maximum(_dot(up + neuron * up_stride, row, hidden_size, BLOCK), 0.0)
            tl.store(combined + place, opened * raised)


@triton.jit
def _add_rows(  # type: ignore[no-untyped-def]
    combined, down_t, partial, hidden_size, intermediate_size, down_stride, split_neurons,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the sum of one part of the neurons' rows of down_t, a block of columns, for one token."""
    split = tl.program_id(1).to(tl.int64)
    token = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden_size
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for step in range(0, split_neurons):
        neuron = split * split_neurons + step
        if neuron < intermediate_size:
            value = tl.load(combined + token * intermediate_size + neuron)
            if value > 0.0:
                row = down_t + neuron * down_stride
                sums += value * tl.load(row + columns, mask=inside, other=0.0).to(tl.float32)
    place = (token * tl.num_programs(1) + split) * hidden_size
    tl.store(partial + place + columns, sums, mask=inside)


def sparse_ffn_triton(  # noqa: PLR0913, PLR0917 - the schema's
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down_t: Tensor,
    active: Tensor | None = None,
    gate_scales: Tensor | None = None,
    up_scales: Tensor | None = None,
    down_scales: Tensor | None = None,
    rows_read: Tensor | None = None,
) -> Tensor:
    """Computes what `sparse_ffn` says; sums are added in a fixed order: the same bits every time."""
    if gate_scales is not None:
        scales = gate_scales, up_scales, down_scales
        return sparse_ffn_reference(x, gate, up, down_t, active, *scales, rows_read)
    (num_tokens, hidden_size), intermediate_size = x.shape, len(gate)
    mask = x.new_ones(num_tokens, intermediate_size, dtype=torch.bool) if active is None else active
    gated, combined = x.new_zeros(2, num_tokens, intermediate_size, dtype=torch.float32)
    _multiply_neuron[(intermediate_size, num_tokens)](
        x.contiguous(), gate, up, mask.to(torch.uint8), gated, combined, hidden_size, intermediate_size,
        gate.stride(0), up.stride(0), BLOCK=BLOCK_COLUMNS,
    )  # fmt: skip
    partial = x.new_empty(num_tokens, NUM_SPLITS, hidden_size, dtype=torch.float32)
    _add_rows[(triton.cdiv(hidden_size, BLOCK_COLUMNS), NUM_SPLITS, num_tokens)](
        combined, down_t, partial, hidden_size, intermediate_size, down_t.stride(0),
        triton.cdiv(intermediate_size, NUM_SPLITS), BLOCK=BLOCK_COLUMNS,
    )  # fmt: skip
    if rows_read is not None:
        rows_read += torch.stack([part.any(dim=0).sum() for part in (mask, gated, combined)])
    return partial.sum(dim=1).to(x.dtype)


_library = torch.library.Library("turbosparse", "IMPL")
_library.impl("sparse_ffn", sparse_ffn_triton, "CUDA")
