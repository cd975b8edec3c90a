"""Pure arithmetic of the mixture: how many sequences from each source, and in which order."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from turbosparse.config.data import DataConfig
from turbosparse.errors import DataError

SPREAD_SEQUENCES = 2**16


def allot_sequences(mixture_percent: dict[str, float], num_sequences: int) -> dict[str, int]:
    """Divides sequences between sources by largest remainder, so that they sum exactly.

    Args:
        mixture_percent: percent of the tokens by source; only the ratios count.
        num_sequences: sequences of all sources together.

    Returns:
        Sequences by source, each within one of its exact share. A share below one sequence may
        get none.
    """
    total = sum(mixture_percent.values())
    exact = {source: percent / total * num_sequences for source, percent in mixture_percent.items()}
    counts = {source: int(share) for source, share in exact.items()}
    by_remainder = sorted(exact, key=lambda source: (counts[source] - exact[source], source))
    for source in by_remainder[: num_sequences - sum(counts.values())]:
        counts[source] += 1
    return counts


def fit_epoch(config: DataConfig, ratios: dict[str, float], on_disk: dict[str, int]) -> dict[str, int]:
    """Returns how many sequences each source gives to an epoch, none repeated beyond the limit.

    Args:
        config: tokens wanted, the limit, and what to do where text runs short.
        ratios: fraction of the tokens by source.
        on_disk: sequences by source.

    Raises:
        DataError: a source's share needs more repetitions than allowed (`on_shortage: refuse`), or
            has no whole sequence at all.
    """
    wanted = config.num_tokens // config.sequence_length
    epoch = allot_sequences(ratios, wanted)
    for source, count in epoch.items():
        if count and not on_disk[source]:
            raise DataError(
                f"data.mixture.{source}",
                "text for less than one sequence",
                f"at least {config.sequence_length} tokens (data.sequence_length)",
                f"give more text for {source}, shorten the sequences, or take it out of the mixture",
            )
    limit = {source: on_disk[source] * config.max_repetitions for source in ratios}
    short = {source: limit[source] / count for source, count in epoch.items() if count > limit[source]}
    if not short:
        return epoch
    scarcest = min(short, key=lambda source: short[source])
    enough = int(wanted * short[scarcest])
    if config.on_shortage == "refuse":
        raise DataError(
            f"data.mixture.{scarcest}",
            f"text for {on_disk[scarcest]} sequences, share of {epoch[scarcest]}",
            f"at most {config.max_repetitions:g} repetitions (data.max_repetitions)",
            f"give more text for {scarcest}, lower data.num_tokens to about "
            f"{enough * config.sequence_length}, set data.on_shortage=shrink, or raise the limit; "
            "what is tokenized stays and is used again",
        )
    # Rounding may give a source one sequence more than its share.
    while any(count > limit[source] for source, count in allot_sequences(ratios, enough).items()):
        enough -= 1
    return allot_sequences(ratios, enough)


def interleave(counts: Sequence[int]) -> NDArray[np.int64]:
    """Orders the sources so that every prefix is in proportion, to less than one sequence.

    Each sequence of a source has an earliest and a latest position; at each position the waiting
    sequence with the earliest deadline goes next. Linear in the number of sequences (about 2 s per
    million).

    Args:
        counts: sequences by source, [num_sources].

    Returns:
        Source index at each position, [sum(counts)], int64.

    Reference:
        R. Tijdeman, The chairman assignment problem (1980).
    """
    total = sum(counts)
    order = np.empty(total, np.int64)
    # A deviation of 1 - 1/slack is the best that can be promised to this many sources.
    slack = max(2 * sum(count > 0 for count in counts) - 2, 2)
    waiting = [(_release(0, count, total, slack), source, 0) for source, count in enumerate(counts) if count]
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []
    for position in range(1, total + 1):
        while waiting and waiting[0][0] <= position:
            _, source, turn = heapq.heappop(waiting)
            heapq.heappush(ready, (_deadline(turn, counts[source], total, slack), source, turn))
        _, source, turn = heapq.heappop(ready)
        order[position - 1] = source
        if turn + 1 < counts[source]:
            release = _release(turn + 1, counts[source], total, slack)
            heapq.heappush(waiting, (release, source, turn + 1))
    return order


def spread(num_sequences: int, block_sequences: int = SPREAD_SEQUENCES) -> NDArray[np.int64]:
    """Orders a source's sequences so that neighbours on disk, cut from one document, lie far apart.

    Drawn as they lie, a small batch holds one document's text, and its loss says how hard that is.
    Blocks follow each other, so that a node that streams its shards needs few of them at a time.

    Returns:
        Each of 0 … num_sequences - 1 once, [num_sequences], int64: within each block, steps of about
        the golden section.
    """
    starts = range(0, num_sequences, block_sequences)
    blocks = [start + _spread_block(min(block_sequences, num_sequences - start)) for start in starts]
    return np.concatenate([np.empty(0, np.int64), *blocks])


def _spread_block(num_sequences: int) -> NDArray[np.int64]:
    stride = max(round(num_sequences * 0.618), 1)
    while math.gcd(stride, num_sequences) != 1:
        stride -= 1
    return np.arange(num_sequences) * stride % num_sequences


def _release(turn: int, count: int, total: int, slack: int) -> int:
    """First position at which a source's next sequence does not run ahead of its share."""
    return -(-(turn * slack + 1) * total // (count * slack))


def _deadline(turn: int, count: int, total: int, slack: int) -> int:
    """Last position at which it does not fall behind."""
    return ((turn + 1) * slack - 1) * total // (count * slack) + 1
