"""Table 4: the data mixture, as wanted by the paper and as drawn from a corpus prepared here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turbosparse.config import TABLE_4_PERCENT
from turbosparse.data.layout import MIXTURE_NAME, ORDER_NAME, REPORT_NAME
from turbosparse.data.sources import SOURCES
from turbosparse.reports.plots import plot_mixture
from turbosparse.reproduce.common import Reproduction, Request, open_scaled
from turbosparse.stages import make

WINDOW_SEQUENCES = 10_000
PILE_SUBSETS = ("pile-arxiv", "pile-pubmed", "pile-philpapers")
PILE_PERCENT = 2.69
"""What the paper gives for the three together."""
HEADER = ("source", "paper, %", "wanted, %", "realised, %", "points off", "tokens", "text from", "substitute")


@dataclass(frozen=True)
class Deviation:
    """How far a source's share strays from what is wanted."""

    points: float
    """Percentage points, absolute."""
    source: str
    """The source that strays furthest."""


def reproduce(request: Request) -> Reproduction:
    """Prepares a corpus at Table 4's ratios, or finds it, and measures the shares that training draws.

    Raises:
        TurboSparseError: The corpus can't be prepared as requested.

    Reference: Table 4 and Section 5 of the paper.
    """
    run = open_scaled(request, {"data": {"mixture": TABLE_4_PERCENT}})
    corpus = make(run, "prepare", request.listener)
    sources = read_sources(corpus.folder())
    wanted = {source: row["wanted_ratio"] for source, row in sources.items()}
    realised = {source: row["realised_ratio"] for source, row in sources.items()}
    order = np.load(corpus.folder() / ORDER_NAME, allow_pickle=False)
    overall, window = worst_deviation(wanted, realised), worst_window(order, wanted, WINDOW_SEQUENCES)
    plot = request.out / "table4.png"
    plot_mixture(wanted, realised, plot)
    num_tokens = sum(row["num_drawn_tokens"] for row in sources.values())
    return Reproduction(
        name="table4",
        title="Table 4: data mixture, wanted and realised",
        header=HEADER,
        rows=[_row(source, row) for source, row in sources.items()],
        measured={
            "corpus": corpus.uri,
            "num_tokens": num_tokens,
            "num_sequences": len(order),
            "sources": sources,
            "substitute_ratio": corpus.manifest.metrics["substitute_ratio"],
            "worst_deviation": vars(overall),
            "worst_window_deviation": vars(window) | {"window_sequences": WINDOW_SEQUENCES},
        },
        paper={"percent": {source: _paper_percent(source) for source in sources}},
        notes=_notes(sources, overall, window, len(order)),
        plots=[plot],
    )


def read_sources(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns, in the order that order.npy numbers them, what a corpus's report says of its sources."""
    report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    numbered = json.loads((folder / MIXTURE_NAME).read_text(encoding="utf-8"))["sequences"]
    return {
        source: {
            "wanted_ratio": report["sources"][source]["wanted_ratio"],
            "realised_ratio": report["sources"][source]["realised_ratio"],
            "num_drawn_tokens": num_sequences * report["sequence_length"],
            "repetitions": report["sources"][source]["repetitions"],
            "text_from": report["sources"][source]["stands_behind"],
            "substitute": report["sources"][source]["substitute"],
        }
        for source, num_sequences in numbered.items()
    }


def worst_deviation(wanted: dict[str, float], realised: dict[str, float]) -> Deviation:
    """Returns the largest difference between a source's realised and wanted ratio."""
    return max(
        (Deviation(100 * abs(realised[source] - wanted[source]), source) for source in wanted),
        key=lambda deviation: deviation.points,
    )


def worst_window(order: NDArray[np.integer[Any]], wanted: dict[str, float], window: int) -> Deviation:
    """Returns the largest deviation from the wanted ratios over any `window` consecutive sequences.

    Windows run on from an epoch's end into the next, whose order is the same; one that is longer than
    an epoch holds whole epochs.

    Args:
        order: number of the source at each position of an epoch, [num_sequences].
        wanted: fraction of the sequences by source, in the order of those numbers.
        window: sequences per window.
    """
    deviations = (
        Deviation(100 * float(np.abs(_window_counts(order == number, window) / window - ratio).max()), source)
        for number, (source, ratio) in enumerate(wanted.items())
    )
    return max(deviations, key=lambda deviation: deviation.points)


def _window_counts(is_drawn: NDArray[np.bool_], window: int) -> NDArray[np.int64]:
    """Returns how often a source is drawn in the window from each position, [num_sequences]."""
    num_epochs, rest = divmod(window, len(is_drawn))
    running = np.concatenate([[0], np.cumsum(np.concatenate([is_drawn, is_drawn[:rest]]))])
    counts: NDArray[np.int64] = running[rest:] - running[: len(running) - rest]
    return num_epochs * np.count_nonzero(is_drawn) + counts[: len(is_drawn)]


def _paper_percent(source: str) -> float | str:
    if source in PILE_SUBSETS:
        return f"{PILE_PERCENT} with {' and '.join(name for name in PILE_SUBSETS if name != source)}"
    return TABLE_4_PERCENT[source]


def _row(source: str, row: dict[str, Any]) -> list[str]:
    wanted, realised = row["wanted_ratio"], row["realised_ratio"]
    paper = f"{PILE_PERCENT} for three" if source in PILE_SUBSETS else f"{TABLE_4_PERCENT[source]:.2f}"
    return [
        SOURCES[source].paper_name,
        paper,
        f"{100 * wanted:.2f}",
        f"{100 * realised:.3f}",
        f"{100 * (realised - wanted):+z.3f}",
        f"{row['num_drawn_tokens']:,}",
        row["text_from"].replace("|", "/"),
        (row["substitute"] or "–").replace("|", "/"),
    ]


def _notes(
    sources: dict[str, dict[str, Any]], overall: Deviation, window: Deviation, num_sequences: int
) -> list[str]:
    substitutes = [source for source, row in sources.items() if row["substitute"]]
    return [
        f"The paper gives {PILE_PERCENT}% for {_listed(PILE_SUBSETS)} together; here "
        f"{' + '.join(f'{TABLE_4_PERCENT[source]:.2f}' for source in PILE_SUBSETS)}.",
        f"Over the {num_sequences:,} sequences of an epoch {overall.source} is furthest off: "
        f"{overall.points:.4f} percentage points.",
        f"Over any {WINDOW_SEQUENCES:,} consecutive sequences of the drawn order, epoch after epoch, "
        f"{window.source} is furthest off: {window.points:.4f} percentage points.",
        f"Other text stands in for {len(substitutes)} of {len(sources)} sources"
        + (f": {', '.join(substitutes)}." if substitutes else "."),
    ]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
