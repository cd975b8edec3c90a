"""Figures for reports: one function each, PNG out."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from turbosparse.analysis.activity import FFNActivity


def plot_mixture(wanted_ratio: dict[str, float], realised_ratio: dict[str, float], path: Path) -> None:
    """Draws each source's wanted and realised share of the tokens to a PNG.

    Args:
        wanted_ratio: fraction of the tokens by source, in [0, 1].
        realised_ratio: the same sources' fractions in the data.
        path: the PNG to write.
    """
    sources = sorted(wanted_ratio, key=lambda source: wanted_ratio[source])
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.42 * len(sources)))
    for ratios, label, shift in ((wanted_ratio, "wanted", 0.2), (realised_ratio, "realised", -0.2)):
        percents = [100 * ratios[source] for source in sources]
        positions = [row + shift for row in range(len(sources))]
        axes.barh(positions, percents, height=0.38, label=label)
    for row, source in enumerate(sources):
        wanted, realised = 100 * wanted_ratio[source], 100 * realised_ratio[source]
        axes.text(
            1.08 * max(wanted, realised), row, f"{wanted:.2f} → {realised:.2f}", va="center", fontsize=8
        )
    axes.set_yticks(range(len(sources)), sources)
    axes.margins(y=0.02)
    axes.set_xscale("log")
    axes.set_xlim(0.1, 400)
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xlabel("share of the tokens, % (wanted → realised)")
    axes.set_title("Mixture: wanted and realised")
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_sparsity(layers: list[FFNActivity], path: Path) -> None:
    """Draws the share of zero activations by layer to a PNG, as Figure 6 of the paper does."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    numbers = [activity.layer for activity in layers]
    axes.bar(numbers, [100 * activity.zero_activation_ratio for activity in layers], label="zero activations")
    if all(activity.predicted_active_ratio is not None for activity in layers):
        skipped = [100 * (1 - (activity.predicted_active_ratio or 0.0)) for activity in layers]
        axes.plot(numbers, skipped, "o-", color="tab:orange", label="skipped by the predictor")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("share of FFN neurons, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right")
    axes.set_title("Sparsity by layer")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
