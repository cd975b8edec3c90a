"""What a decoding step does between its products, in one operator each: as torch's own operators do it."""

import pytest
import torch

from turbosparse.inference.operators import (
    Positions,
    attend,
    attend_reference,
    predict,
    predict_reference,
    rms_norm,
    rms_norm_reference,
    route,
    route_reference,
)
from turbosparse.inference.quantize import Weight, quantize

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step(dtype, slots, first=0, window=None):
    """Returns heads (6 queries, 2 keys, 2 values of 20 columns), a block of 40 slots, and positions."""
    found = torch.tensor(slots)
    end = max(slots) + 1
    reached = torch.arange(first, end)
    mask = (reached <= found[:, None]) & (reached > found[:, None] - (window or end))
    angles = (random(len(slots), 1, 20, dtype=dtype, seed=seed) for seed in (1, 2))
    positions = Positions(found, first, end, *angles, mask[:, None, None] if len(slots) > 1 else None)
    heads = random(len(slots), 10, 20, dtype=dtype, seed=3)
    return heads, random(2, len(slots), 2, 40, 20, dtype=dtype, seed=4), positions


def fields(positions):
    return (
        positions.slots,
        positions.cos,
        positions.sin,
        positions.first,
        positions.end,
        positions.mask,
    )


@DTYPES
@pytest.mark.parametrize(
    ("slots", "first", "window"),
    [([0], 0, None), ([37], 5, None), ([39, 7, 20], 0, None), ([30, 25], 22, 4)],
    ids=["first-token", "window", "three-lengths", "two-windows"],
)
def test_attention_is_torchs_and_fills_the_cache(dtype, slots, first, window):
    heads, block, positions = step(dtype, slots, first, window)
    expected_block = block.clone()
    expected = attend_reference(heads, expected_block, *fields(positions))
    found = attend(heads, block, positions)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": 4 * TOLERANCE[dtype]}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(block, expected_block, **tolerance)
    changed = (block != random(*block.shape, dtype=dtype, seed=4)).any(dim=-1).nonzero()
    assert {(sequence, slot) for _, sequence, _, slot in changed.tolist()} == set(enumerate(slots))


def test_what_a_mask_hides_is_not_looked_at():
    heads, block, positions = step(torch.float32, [39, 7])
    expected = attend(heads, block.clone(), positions)
    block[:, 1, :, 8:] = torch.nan
    torch.testing.assert_close(attend(heads, block, positions), expected, rtol=0, atol=0)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 205), (3, 4096)])
def test_the_norm_is_torchs(dtype, shape):
    x, weight = 30 * random(*shape, dtype=dtype), random(shape[-1], dtype=dtype, seed=1)
    found = rms_norm(x, weight, 1e-5)
    assert found.dtype == dtype
    expected = rms_norm_reference(x.double(), weight.double(), 1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=1e-6)


@DTYPES
def test_predictions_are_the_formulas(dtype):
    x = random(3, 205, dtype=dtype)
    fc1, fc2 = quantize(random(64, 205, seed=1), "int8"), quantize(random(171, 64, seed=2), "int8")
    parts = fc1.values, fc2.values, fc1.scales, fc2.scales
    logits = torch.relu(x.double() @ (fc1.values * fc1.scales).double().T)
    logits = logits @ (fc2.values * fc2.scales).double().T
    is_clear = (logits - 1.5).abs() > 0.05  # nearer to the threshold, rounding decides
    for found in (predict(x, fc1, fc2, 1.5), predict_reference(x, *parts, 1.5)):
        assert found.dtype == torch.bool
        assert torch.equal(found[is_clear], (logits > 1.5)[is_clear])
    assert 0.1 < found.float().mean() < 0.9


@DTYPES
def test_experts_are_chosen_as_mixtral_does(dtype):
    x, weight = random(5, 64, dtype=dtype), random(6, 64, dtype=dtype, seed=1)
    shares, chosen = route(x, Weight(weight), 2)
    expected, experts = route_reference(x, weight, 2)
    assert torch.equal(chosen, experts)
    torch.testing.assert_close(shares, expected)
    probabilities = (x @ weight.T).float().softmax(dim=-1).gather(1, chosen)
    torch.testing.assert_close(
        shares, probabilities / probabilities.sum(1, keepdim=True), rtol=1e-4, atol=1e-4
    )


def test_the_operators_keep_torchs_rules():
    heads, block, positions = step(torch.float32, [3, 5])
    tests = ("test_schema", "test_faketensor")
    operators = torch.ops.turbosparse
    torch.library.opcheck(operators.attend.default, (heads, block, *fields(positions)), test_utils=tests)
    torch.library.opcheck(operators.rms_norm.default, (random(2, 64), random(64), 1e-5), test_utils=tests)
    torch.library.opcheck(operators.route.default, (random(2, 64), random(4, 64), 2), test_utils=tests)
    fc1, fc2 = quantize(random(64, 32), "int8"), quantize(random(48, 64), "int8")
    arguments = (random(2, 32), fc1.values, fc2.values, fc1.scales, fc2.scales, 0.5)
    torch.library.opcheck(operators.predict.default, arguments, test_utils=tests)
