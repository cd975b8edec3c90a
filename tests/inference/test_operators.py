"""The operators compute the dense formula, whatever the backend, the dtype and the widths."""

import pytest
import torch
from torch.nn.functional import linear as dense_linear
from torch.nn.functional import relu

from turbosparse.inference.build import load_kernels
from turbosparse.inference.operators import linear, linear_reference, sparse_ffn, sparse_ffn_reference
from turbosparse.inference.quantize import Weight, dequantize, quantize

# Neither is a multiple of a vector's lanes; INT4_HIDDEN is of int4's blocks.
HIDDEN, INTERMEDIATE, INT4_HIDDEN = 205, 171, 224


def make(quantization="none", dtype=torch.float32, num_tokens=1, seed=0):
    """Returns tokens, gate, up, down_t and a mask of active neurons."""
    generator = torch.Generator().manual_seed(seed)
    hidden = INT4_HIDDEN if quantization == "int4" else HIDDEN
    matrices = [torch.randn(INTERMEDIATE, hidden, generator=generator).to(dtype) for _ in range(3)]
    x = torch.randn(num_tokens, hidden, generator=generator).to(dtype)
    active = torch.rand(num_tokens, INTERMEDIATE, generator=generator) < 0.3
    return x, [quantize(matrix, quantization) for matrix in matrices], active


def masked_dense(x, weights, active=None):
    """The formula of the paper's Equation 2, neurons left out where they are not active."""
    gate, up, down_t = (dequantize(weight).double() for weight in weights)
    combined = relu(x.double() @ gate.T) * relu(x.double() @ up.T)
    return (combined if active is None else combined * active) @ down_t


def reference(x, gate, up, down_t, active=None, rows_read=None):
    values, scales = zip(gate, up, down_t, strict=True)
    return sparse_ffn_reference(x, *values, active, *scales, rows_read)


def as_lists(*weights):
    """Weights and scales as the operator `linear` takes them."""
    return [weight.values for weight in weights], [w.scales for w in weights if w.scales is not None]


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("compute", [sparse_ffn, reference])
@pytest.mark.parametrize("num_tokens", [1, 3])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_sparse_equals_masked_dense_to_1e_5_in_fp32(compute, num_tokens, quantization):
    x, weights, active = make(quantization, num_tokens=num_tokens)
    assert relative_error(compute(x, *weights), masked_dense(x, weights)) < 1e-5
    assert relative_error(compute(x, *weights, active), masked_dense(x, weights, active)) < 1e-5


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_bf16_weights_are_read_exactly(num_tokens):
    """What is lost is the output's rounding alone: sums are in fp32."""
    x, weights, active = make(dtype=torch.bfloat16, num_tokens=num_tokens)
    found = sparse_ffn(x, *weights, active)
    assert found.dtype == torch.bfloat16
    expected = masked_dense(x, weights, active)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("num_columns", [4096 + 4096 + 64 + 37, 128, 32, 5])
def test_int8_weights_meet_bf16_tokens_to_more_than_bf16s_bits(num_columns):
    """Tokens become integers of 16 bits there: the largest values must not overflow their sums."""
    generator = torch.Generator().manual_seed(1)
    matrix, x = (
        torch.randn(9, num_columns, generator=generator),
        torch.randn(2, num_columns, generator=generator),
    )
    matrix[0], x[0] = 3.0, 3.0
    weight, x = quantize(matrix, "int8"), x.bfloat16()
    found = torch.ops.turbosparse.linear(x, *as_lists(weight)).double()
    expected = x.double() @ dequantize(weight).double().T
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=2**-12 * num_columns)
    assert not torch.ops.turbosparse.linear(torch.zeros_like(x), *as_lists(weight)).any()


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_linear_equals_torchs_own(quantization):
    """Of one weight, and of several with unequal numbers of rows, side by side."""
    x, (gate, up, _), _ = make(quantization, num_tokens=2)
    few = Weight(*(None if part is None else part[:7] for part in up))
    for weights in ([gate], [gate, few, up]):
        expected = torch.cat(
            [dense_linear(x.double(), dequantize(weight).double()) for weight in weights], dim=1
        )
        assert relative_error(linear(x, *weights), expected) < 1e-5
        assert relative_error(linear_reference(x, *as_lists(*weights)), expected) < 1e-5


@pytest.mark.parametrize("num_columns", [4096 + 37, 128, 32, 5])
def test_bf16_meets_bf16_in_sums_of_fp32(num_columns):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(9, num_columns, generator=generator).bfloat16()
    x = torch.randn(2, num_columns, generator=generator).bfloat16()
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(
        linear(x, Weight(weight)).double(), expected, rtol=2**-8, atol=1e-5 * num_columns
    )


def test_rows_are_counted_only_where_they_can_matter():
    x, weights, active = make(num_tokens=2)
    gate = relu(x @ weights[0].values.T) * active
    combined = gate * relu(x @ weights[1].values.T)
    expected = [int(part.any(dim=0).sum()) for part in (active, gate, combined)]
    assert INTERMEDIATE > expected[0] > expected[1] > expected[2] > 0
    for compute in (sparse_ffn, reference):
        rows_read = torch.full((3,), 5)
        compute(x, *weights, active, rows_read=rows_read)
        assert (rows_read - 5).tolist() == expected


def test_what_is_not_active_is_not_read():
    """Rows that must not be read hold NaN, which would spread to the output."""
    x, weights, active = make()
    expected = sparse_ffn(x, *weights, active)
    for weight in weights:
        weight.values[~active[0]] = torch.nan
    gate_is_shut = active[0] & (x @ weights[0].values.T <= 0)[0]
    for weight in weights[1:]:
        weight.values[gate_is_shut] = torch.nan
    torch.testing.assert_close(sparse_ffn(x, *weights, active), expected, rtol=0, atol=0)


def test_a_sequence_does_not_depend_on_those_beside_it():
    x, weights, active = make(num_tokens=3)
    together = sparse_ffn(x, *weights, active)
    for number in range(3):
        one = slice(number, number + 1)
        torch.testing.assert_close(
            sparse_ffn(x[one], *weights, active[one]), together[one], rtol=1e-5, atol=1e-4
        )


def test_no_active_neuron_gives_zero():
    x, weights, active = make()
    assert not sparse_ffn(x, *weights, torch.zeros_like(active)).any()
    assert not sparse_ffn(torch.zeros_like(x), *weights).any()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_same_threads_give_the_same_bits(num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        x, weights, _ = make(num_tokens=2)
        outputs = [sparse_ffn(x, *weights) for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_rows_of_a_wider_matrix_are_read_where_they_lie():
    """A Mixtral expert's gate is a slice of a stack; a strided matrix is no copy."""
    x, weights, _ = make()
    wide = torch.randn(INTERMEDIATE, 2 * HIDDEN)
    wide[:, :HIDDEN] = weights[0].values
    sliced = [Weight(wide[:, :HIDDEN]), *weights[1:]]
    # Not bit for bit: rows that begin elsewhere in a cache line may be summed in another order.
    torch.testing.assert_close(sparse_ffn(x, *sliced), sparse_ffn(x, *weights), rtol=1e-5, atol=1e-3)


def test_the_kernels_are_what_is_tested():
    if not load_kernels():
        pytest.skip("no C++ compiler here: the operators are their reference")
    registered = torch._C._dispatch_dump("turbosparse::sparse_ffn")
    assert "CPU" in registered.split("Meta")[0]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_operators_keep_torchs_rules(quantization):
    """Schema, mutation, fake tensors: torch's own checks of a registered operator."""
    x, weights, active = make(quantization)
    values, scales = zip(*weights, strict=True)
    arguments = (x, *values, active, *scales, torch.zeros(3, dtype=torch.int64))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.turbosparse.sparse_ffn.default, arguments, test_utils=tests)
    torch.library.opcheck(torch.ops.turbosparse.linear.default, (x, *as_lists(*weights)), test_utils=tests)
