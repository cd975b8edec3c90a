"""Two models on the same items: how much they differ, and how surely."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 1234
NUM_RESAMPLES = 10_000
"""Resamples behind intervals, and random signs behind p-values."""
_CHUNK_ITEMS = 2_000_000
"""Items that are drawn at once, over all resamples."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """One metric of two models, item by item."""

    before: Floats
    """The first model's score of each item, more being better."""
    after: Floats
    """The second model's."""
    sizes: Floats
    """What an item counts for: 1, or its words."""
    as_value: Callable[[float], float] = float
    """Makes the metric's value of a mean score."""

    @property
    def values(self) -> tuple[float, float]:
        """The metric of the first and of the second model."""
        total = self.sizes.sum()
        return self.as_value(self.before.sum() / total), self.as_value(self.after.sum() / total)

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every item is either right or wrong."""
        return bool(np.isin(np.concatenate([self.before, self.after]), (0.0, 1.0)).all())

    @property
    def test(self) -> str:
        """What p-values are from."""
        return "McNemar, exact" if self.is_right_or_wrong else "paired randomisation"

    def p_worse(self) -> float:
        """Returns how likely so much loss is, were the second model no worse: small, and it is worse."""
        return self._one_sided(self.before - self.after)

    def p_value(self) -> float:
        """Returns how likely so large a difference either way is, were both models alike."""
        return min(1.0, 2 * min(self.p_worse(), self._one_sided(self.after - self.before)))

    def interval(self) -> tuple[float, float]:
        """Returns a 95% interval of the second value less the first: a paired bootstrap over items."""
        rng, num_items = np.random.default_rng(SEED), len(self.sizes)
        differences: list[float] = []
        for num_drawn in _chunks(num_items):
            drawn = rng.integers(num_items, size=(num_drawn, num_items))
            totals = self.sizes[drawn].sum(1)
            before, after = (scores[drawn].sum(1) / totals for scores in (self.before, self.after))
            differences += [
                self.as_value(new) - self.as_value(old) for old, new in zip(before, after, strict=True)
            ]
        low, high = np.quantile(differences, (0.025, 0.975))
        return float(low), float(high)

    def _one_sided(self, losses: Floats) -> float:
        if self.is_right_or_wrong:
            return binomial_tail(int((losses > 0).sum()), int((losses != 0).sum()))
        return _randomised_tail(losses)


def binomial_tail(num_heads: int, num_tosses: int) -> float:
    """Returns the chance of so many heads or more in tosses of a fair coin."""
    ways = sum(math.comb(num_tosses, heads) for heads in range(num_heads, num_tosses + 1))
    return float(ways / 2**num_tosses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that may all be held against one bound: Holm's correction for their number."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = largest
    return corrected


def _randomised_tail(losses: Floats) -> float:
    """Returns how often random signs make the sum as large; the observed signs count as one draw."""
    rng, observed = np.random.default_rng(SEED), losses.sum()
    # Sums in another order differ in their last digits: those are equal.
    bound = observed - 1e-9 * np.abs(losses).sum()
    num_as_large = 0
    for num_drawn in _chunks(len(losses)):
        signs = rng.integers(0, 2, size=(num_drawn, len(losses)), dtype=np.int8) * 2 - 1
        num_as_large += int((signs @ losses >= bound).sum())
    return (1 + num_as_large) / (1 + NUM_RESAMPLES)


def _chunks(num_items: int) -> list[int]:
    size = max(1, min(NUM_RESAMPLES, _CHUNK_ITEMS // num_items))
    whole, rest = divmod(NUM_RESAMPLES, size)
    return [size] * whole + [rest] * (rest > 0)
