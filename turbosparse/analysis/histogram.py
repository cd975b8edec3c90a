"""Histograms of activations with the same bins for every model, layer and expert.

Activations of one model may be a thousand times those of another, and most lie near zero. So bins are
narrow near zero and wide far from it: a constant number per octave of |value|, mirrored, with one bin
around zero and one beyond either end. Exact zeros, which have no density, are counted apart.
"""

import torch
from torch import Tensor

LOWEST_EXPONENT, HIGHEST_EXPONENT = -14, 8
"""|value| from 2^-14 to 2^8 is resolved."""
BINS_PER_OCTAVE = 8


NUM_STEPS = (HIGHEST_EXPONENT - LOWEST_EXPONENT) * BINS_PER_OCTAVE
"""Bins on either side of zero, between the bin around zero and the one beyond the end."""


def _edges() -> Tensor:
    steps = torch.arange(NUM_STEPS + 1)
    octave, eighth = steps // BINS_PER_OCTAVE, steps % BINS_PER_OCTAVE
    positive = torch.exp2((octave + LOWEST_EXPONENT).double()) * (1 + eighth / BINS_PER_OCTAVE)
    return torch.cat([-positive.flip(0), positive]).float()


EDGES = _edges()
"""Inner bin edges, ascending, fp32; an octave is divided evenly."""


class Histogram:
    """Counts of values by bin; memory does not grow with what is counted."""

    def __init__(self) -> None:
        self.counts = torch.zeros(len(EDGES) + 1, dtype=torch.int64)
        """Non-zero values by bin; the first and the last bin lie beyond the outer edges."""
        self.num_zeros = 0

    @property
    def num_values(self) -> int:
        """Everything that was counted."""
        return int(self.counts.sum()) + self.num_zeros

    def add(self, values: Tensor) -> None:
        """Counts `values`, of any shape and floating dtype."""
        flat = values.detach().flatten().float()
        counts = torch.bincount(_bins(flat), minlength=len(self.counts)).cpu()
        num_zeros = int((flat == 0).sum())
        counts[len(EDGES) // 2] -= num_zeros
        self.counts += counts
        self.num_zeros += num_zeros

    def merge(self, other: "Histogram") -> None:
        """Adds what `other` has counted."""
        self.counts += other.counts
        self.num_zeros += other.num_zeros

    def central_range(self, share: float) -> float:
        """Returns the smallest edge e with at least `share` of all values in [-e, e], or the outermost."""
        assert self.num_values
        middle = len(EDGES) // 2
        inside = self.counts[middle:-1].clone()  # from the bin around zero outwards
        inside[1:] += self.counts[1:middle].flip(0)
        num_short = int((self.num_zeros + inside.cumsum(0) < share * self.num_values).sum())
        return float(EDGES[middle + min(num_short, len(inside) - 1)])


def _bins(values: Tensor) -> Tensor:
    """Returns the bin of each value: [values], int32.

    The eight bins of an octave are the top three bits of the mantissa, so the bits of an fp32 number,
    less its sign, count bins from zero outwards. Searching the edges took four times as long.
    """
    bits = values.view(torch.int32)
    dropped_bits = 23 - BINS_PER_OCTAVE.bit_length() + 1
    step = ((bits & 0x7FFFFFFF) >> dropped_bits) - (127 + LOWEST_EXPONENT) * BINS_PER_OCTAVE
    outwards = step.add_(1).clamp_(0, NUM_STEPS + 1)
    return torch.where(bits < 0, -outwards, outwards) + NUM_STEPS + 1
