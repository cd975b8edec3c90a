"""Quantised weights are near the weights, and say what they take."""

import pytest
import torch

from turbosparse.errors import ModelError
from turbosparse.inference.quantize import dequantize, quantize


@pytest.fixture
def weight():
    return torch.randn(24, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("quantization", "levels"), [("int8", 127), ("int4", 8)])
def test_no_weight_moves_further_than_half_a_step(weight, quantization, levels):
    """int4 may clip the far end of a block's other sign, by one step at the most."""
    columns = 96 if quantization == "int8" else 32
    blocks = weight.unflatten(1, (-1, columns))
    step = blocks.abs().amax(dim=2, keepdim=True) / levels
    moved = (dequantize(quantize(weight, quantization)).unflatten(1, (-1, columns)) - blocks).abs()
    furthest = 0.51 if quantization == "int8" else 1.01
    assert (moved <= furthest * step).all()
    assert (moved <= 0.51 * step).float().mean() > 0.95
    assert moved.max() > 0


def test_bytes_are_those_of_the_format(weight):
    assert quantize(weight.bfloat16(), "none").num_bytes == 24 * 96 * 2
    assert quantize(weight, "int8").row_bytes == 96 + 2
    assert quantize(weight, "int4").row_bytes == 96 // 2 + 3 * 2


def test_zero_weights_stay_zero(weight):
    weight[3] = 0
    for quantization in ("int8", "int4"):
        assert not dequantize(quantize(weight, quantization))[3].any()


def test_unquantised_weights_are_shared(weight):
    assert quantize(weight, "none").values.data_ptr() == weight.data_ptr()


def test_what_has_no_kernel_is_refused(weight):
    with pytest.raises(ModelError, match=r"float16.*float32 or bfloat16"):
        quantize(weight.half(), "none")
    with pytest.raises(ModelError, match="multiple of 32"):
        quantize(weight[:, :40], "int4")
