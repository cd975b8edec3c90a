"""Timing several ways of doing one thing by turns, so that a noisy machine is noisy for all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch

Step = Callable[[int], object]
"""One unit of work; its argument counts steps: by it, weights and inputs rotate."""
Rounds = dict[str, list[float]]
"""Seconds of each way by name, one per round."""


def time_by_turns(ways: Mapping[str, Step], num_rounds: int) -> Rounds:
    """Returns the mean seconds of one step of each way in each round, after untimed ones.

    A way's turn lasts about as long as the slowest way's one step: whoever else is on the machine then
    takes as much from each turn. Who goes first rotates.
    """
    names = list(ways)
    seconds: Rounds = {name: [] for name in names}
    with torch.inference_mode():
        slowest = {name: min(_seconds(ways[name], 1, start) for start in (0, 1)) for name in names}
        num_steps = {name: max(1, round(max(slowest.values()) / slowest[name])) for name in names}
        for number in range(num_rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                start = number * num_steps[name]
                seconds[name].append(_seconds(ways[name], num_steps[name], start) / num_steps[name])
    return seconds


def _seconds(way: Step, num_steps: int, start: int) -> float:
    started = time.perf_counter()
    for number in range(start, start + num_steps):
        way(number)
    return time.perf_counter() - started


def median_ratio(slower: list[float], faster: list[float]) -> float:
    """Returns how many times the faster way is as fast: the median over rounds."""
    return median(slow / fast for slow, fast in zip(slower, faster, strict=True))


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Lets torch and the kernels use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
