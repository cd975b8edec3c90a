"""One FFN at the true widths: all of its rows, or its active rows only."""

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import relu

from turbosparse.bench.decode_rounds import Step, median_ratio, num_threads, time_by_turns
from turbosparse.bench.decode_shapes import BLOCK_VALUES, NUM_SETS, fill_repeatedly
from turbosparse.inference.memory import use_huge_pages
from turbosparse.inference.operators import linear, sparse_ffn
from turbosparse.inference.quantize import Weight, quantize

ACTIVE_RATIOS = (0.05, 0.1, 0.15, 0.3)
NUM_FFNS = 3
"""FFNs taken by turns: of Mistral's in bf16 they are 1.06 GB together."""
DENSE_WAYS = ("F.linear", "row products", "all rows active")

KernelPrecision = Literal["fp32", "bf16", "int8", "int4"]


@dataclass(frozen=True)
class KernelCase:
    """FFNs of one precision, and their tokens; every neuron is positive, so that a mask alone decides."""

    precision: KernelPrecision
    x: Tensor
    ffns: list[tuple[Weight, Weight, Weight]]

    @classmethod
    def make(cls, hidden_size: int, intermediate_size: int, precision: KernelPrecision) -> "KernelCase":
        """Returns random FFNs [intermediate, hidden]."""
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        kind = precision if precision in ("int8", "int4") else "none"
        values = torch.empty(intermediate_size, hidden_size, dtype=dtype)
        fill_repeatedly(values, torch.rand(BLOCK_VALUES) * 0.02)
        weight = quantize(values, kind)
        ffns = [(_copy(weight), _copy(weight), _copy(weight)) for _ in range(NUM_FFNS)]
        return cls(precision, torch.rand(1, hidden_size, dtype=dtype), ffns)

    @property
    def dense_bytes(self) -> int:
        """Bytes of one FFN."""
        return sum(weight.num_bytes for weight in self.ffns[0])

    def dense(self, way: str, number: int) -> Tensor:
        """Computes every neuron of step `number`'s FFN, in one of DENSE_WAYS."""
        gate, up, down_t = self.ffns[number % NUM_FFNS]
        if way == "all rows active":
            return sparse_ffn(self.x, gate, up, down_t)
        down = _viewed(down_t, self.x.shape[1])
        if way == "row products":
            return linear(relu(linear(self.x, gate)) * relu(linear(self.x, up)), down)
        opened = relu(functional.linear(self.x, gate.values)) * relu(functional.linear(self.x, up.values))
        return functional.linear(opened, down.values)

    def sparse(self, masks: list[Tensor], number: int) -> Tensor:
        """Computes the active neurons of step `number`'s FFN."""
        return sparse_ffn(self.x, *self.ffns[number % NUM_FFNS], masks[number % NUM_SETS])


def measure_kernels(
    case: KernelCase,
    bandwidth: float,
    threads: int,
    num_rounds: int,
    ratios: tuple[float, ...] = ACTIVE_RATIOS,
) -> dict[str, Any]:
    """Returns each active ratio's speed over the best dense way, measured by turns in one run.

    Args:
        case: the FFNs.
        bandwidth: bytes per second that so many threads read from memory.
        threads: of every way.
        num_rounds: medians are over these.
        ratios: shares of neurons that are active.
    """
    num_neurons = len(case.ffns[0][0].values)
    masks = {ratio: [_mask(num_neurons, ratio) for _ in range(NUM_SETS)] for ratio in ratios}
    dense_ways = DENSE_WAYS if case.precision in ("fp32", "bf16") else DENSE_WAYS[1:]
    ways: dict[str, Step] = {way: partial(case.dense, way) for way in dense_ways}
    ways |= {str(ratio): partial(case.sparse, masks[ratio]) for ratio in ratios}
    with num_threads(threads):
        rounds = time_by_turns(ways, num_rounds)
    best = min(dense_ways, key=lambda way: median(rounds[way]))
    report: dict[str, Any] = {
        "dense": {way: _rate(case.dense_bytes, median(rounds[way]), bandwidth) for way in dense_ways},
        "best_dense": best,
    }
    for ratio in ratios:
        byte_ratio = num_neurons / int(masks[ratio][0].sum())
        found = median_ratio(rounds[best], rounds[str(ratio)])
        speed = _rate(case.dense_bytes / byte_ratio, median(rounds[str(ratio)]), bandwidth)
        report[str(ratio)] = {"ratio": found, "share_of_byte_ratio": found / byte_ratio, **speed}
    return report


def _copy(weight: Weight) -> Weight:
    copied = weight.values.clone()
    use_huge_pages(copied)
    return Weight(copied, weight.scales)


def _mask(num_neurons: int, ratio: float) -> Tensor:
    mask = torch.zeros(1, num_neurons, dtype=torch.bool)
    mask[0, torch.randperm(num_neurons)[: round(ratio * num_neurons)]] = True
    return mask


def _viewed(down_t: Weight, hidden_size: int) -> Weight:
    """Returns the same bytes as a matrix [hidden, intermediate]: its product takes as long as any."""
    values, scales = down_t
    if scales is not None:
        scales = scales[:hidden_size] if scales.shape[1] == 1 else scales.view(hidden_size, -1)
    return Weight(values.view(hidden_size, -1), scales)


def _rate(num_bytes: float, seconds: float, bandwidth: float) -> dict[str, float]:
    rate = num_bytes / seconds
    return {"seconds": seconds, "bytes_per_second": rate, "bandwidth_ratio": rate / bandwidth}
