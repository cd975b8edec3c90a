"""Weights as the kernels read them: as they are, or quantised by rows (int8) or blocks of a row (int4)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from turbosparse.errors import ModelError

Quantization = Literal["none", "int8", "int4"]
BLOCK = 32
"""Columns that share a scale in int4."""


class Weight(NamedTuple):
    """A matrix [rows, columns] whose rows are read one by one."""

    values: Tensor
    """fp32 or bf16 [rows, columns]; int8 [rows, columns]; int4: uint8 [rows, columns / 2], two to a byte."""
    scales: Tensor | None = None
    """bf16 [rows, groups of columns]; None: not quantised."""

    @property
    def num_bytes(self) -> int:
        """Bytes that reading the whole matrix takes, scales included."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self if tensor is not None)

    @property
    def row_bytes(self) -> int:
        """Bytes that reading one row takes."""
        return self.num_bytes // len(self.values)


def quantize(weight: Tensor, quantization: Quantization) -> Weight:
    """Returns a weight [rows, columns] for the kernels; `none` shares its memory.

    int8 has one scale per row. int4 has one per 32 columns; byte i of a block holds column i in its low
    half and column i + 16 in its high half, each plus 8 (llama.cpp's Q4_0, but for the scale's bf16).

    Raises:
        ModelError: There is no kernel for the weight's dtype, or int4 for its number of columns.
    """
    if quantization == "none":
        return Weight(_checked(weight))
    if quantization == "int8":
        return _quantize_rows(weight)
    return _quantize_blocks(weight)


def dequantize(weight: Weight) -> Tensor:
    """Returns the matrix [rows, columns] that a weight stands for, fp32 where it is quantised."""
    values, scales = weight
    if scales is None:
        return values
    if values.dtype == torch.uint8:
        blocks = values.unflatten(1, (-1, BLOCK // 2))
        values = torch.cat([blocks & 15, blocks >> 4], dim=2).flatten(1).to(torch.int8) - 8
    groups = values.unflatten(1, (scales.shape[1], -1)).float()
    return (groups * scales.float()[..., None]).flatten(1)


def _checked(weight: Tensor) -> Tensor:
    if weight.dtype not in (torch.float32, torch.bfloat16):
        remedy = "load the model in one of these dtypes"
        raise ModelError("dtype", str(weight.dtype).removeprefix("torch."), "float32 or bfloat16", remedy)
    return weight if weight.stride(1) == 1 else weight.contiguous()


def _quantize_rows(weight: Tensor) -> Weight:
    weight = weight.float()
    scales = _usable(weight.abs().amax(dim=1, keepdim=True) / 127)
    values = (weight / scales.float()).round().clamp(-127, 127)
    return Weight(values.to(torch.int8), scales)


def _quantize_blocks(weight: Tensor) -> Weight:
    if weight.shape[1] % BLOCK:
        expected = f"rows of a multiple of {BLOCK} columns for int4"
        raise ModelError("columns", weight.shape[1], expected, "use --quantize int8")
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    # The largest weight of a block becomes -8, so that all sixteen values are of use.
    largest = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scales = _usable(largest / -8)
    values = (blocks / scales.float()).round().clamp(-8, 7).to(torch.int8) + 8
    low, high = values.to(torch.uint8).chunk(2, dim=2)
    return Weight((low | high << 4).flatten(1), scales.squeeze(2))


def _usable(scales: Tensor) -> Tensor:
    """Returns scales as bf16, those of all-zero weights 1: weights are divided by what is stored."""
    stored = scales.bfloat16()
    return torch.where(stored == 0, torch.ones_like(stored), stored)
