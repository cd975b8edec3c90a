"""Figures of activations: their distributions, and sparsity against depth, perplexity and accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from safetensors.torch import save_file

from turbosparse.analysis.histogram import EDGES, Histogram
from turbosparse.analysis.statistics import PARTS, Analysis, Part
from turbosparse.analysis.taps import Expert

SHOWN_SHARE = 0.99
"""The value axis ends where this share of a histogram's values is inside."""
NUM_BARS = 80
"""Bars of a drawn distribution, into which the histogram's bins are pooled; even: one ends at zero."""
MAX_LAYERS = 4
"""Layers drawn of a model's distribution, spread evenly."""


Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """One drawn distribution."""

    title: str
    curves: dict[str, Histogram]
    """Histograms by label."""


def plot_distributions(panels: Sequence[Sequence[Panel]], title: str, path: Path) -> None:
    """Draws a grid of distributions, one row of panels per sequence, to a PNG.

    The part of the values that is exactly zero has no density; each label gives its share.
    """
    num_columns = max(len(row) for row in panels)
    figure, grid = plt.subplots(
        len(panels), num_columns, figsize=(4.4 * num_columns, 0.6 + 3.1 * len(panels)), squeeze=False
    )
    for row, axes_row in zip(panels, grid, strict=True):
        for axes in axes_row[len(row) :]:
            axes.remove()
        for panel, axes in zip(row, axes_row, strict=False):
            _draw_panel(panel, axes)
        axes_row[0].set_ylabel("share of values per bar")
    for axes in grid[-1]:
        axes.set_xlabel("activation value")
    figure.suptitle(title)
    _save(figure, path)


def plot_layer_ratios(ratios: Mapping[str, Sequence[float]], axis: str, title: str, path: Path) -> None:
    """Draws one line per model of a ratio in [0, 1] against the layer, as Figure 6 does, to a PNG."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for label, values in ratios.items():
        mean = sum(values) / len(values)
        axes.plot(range(len(values)), values, "o-", markersize=4, label=f"{label} (mean {mean:.1%})")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(axis)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.set_title(title)
    _legend_below(axes)
    _save(figure, path)


def plot_against_sparsity(
    sparsities: Sequence[float],
    values: Mapping[str, Sequence[float]],
    axis: str,
    title: str,
    path: Path,
    *,
    log_scale: bool = False,
) -> None:
    """Draws one line per model of `values` against the masked share of activations to a PNG."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for label, line in values.items():
        axes.plot([100 * ratio for ratio in sparsities], line, "o-", markersize=4, label=label)
    axes.set_xlabel("activations set to zero in every FFN and expert, %")
    axes.set_ylabel(axis)
    if log_scale:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    _legend_below(axes)
    _save(figure, path)


def write_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Writes figures of one model's analysis, and its activation counts as safetensors, to a folder.

    Returns the files. The counts are named `activation_{layer}[.expert_{n}]`: [intermediate], int64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layers = analysis.layers()
    numbers = [activity.layer for activity in layers]
    zero = [activity.zero_activation_ratio for activity in layers]
    near_zero = [analysis.near_zero_ratio(layer) for layer in numbers]
    near_label = f"|h| at most {analysis.plan.near_zero_threshold:g} × the token's RMS"
    plot_layer_ratios(
        {"exactly zero": zero, near_label: near_zero},
        "share of activations",
        "Sparsity by layer",
        folder / "sparsity.png",
    )
    panels = [
        [Panel(f"{part}, layer {layer}", layer_curves(analysis, layer, part)) for part in PARTS]
        for layer in spread(numbers, MAX_LAYERS)
    ]
    plot_distributions(panels, "Distribution of activations", folder / "distributions.png")
    save_file(analysis.neuron_counts(), folder / "activation_counts.safetensors")
    return [folder / name for name in ("sparsity.png", "distributions.png", "activation_counts.safetensors")]


def layer_curves(analysis: Analysis, layer: int, part: Part) -> dict[str, Histogram]:
    """Returns a layer's histograms of a part by FFN or expert, at most MAX_LAYERS experts."""
    units = [unit for unit in analysis.units_of(layer) if unit.num_tokens]
    return {_unit_label(unit.expert): unit.histograms[part] for unit in spread(units, MAX_LAYERS)}


def _unit_label(expert: Expert) -> str:
    if expert is None:
        return "FFN"
    return "shared expert" if expert == "shared" else f"expert {expert}"


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Returns at most `most` items, the first and the last among them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / (most - 1))] for step in range(most)]


def _draw_panel(panel: Panel, axes: Axes) -> None:
    reach = max(histogram.central_range(SHOWN_SHARE) for histogram in panel.curves.values())
    for label, histogram in panel.curves.items():
        zeros = histogram.num_zeros / histogram.num_values
        edges, shares = _bars(histogram, reach)
        shown = f"{label}, {zeros:.0%} zero" if zeros else label
        axes.stairs(shares, edges, label=shown, fill=len(panel.curves) == 1, alpha=0.8)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(fontsize=8)


def _bars(histogram: Histogram, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pools the histogram's bins into NUM_BARS equal ones over [-reach, reach]: edges and shares.

    A bin that straddles two bars is divided between them by width.
    """
    edges = np.linspace(-reach, reach, NUM_BARS + 1)
    share = histogram.counts[1:-1].double() / histogram.num_values
    running = torch.cat([share.new_zeros(1), share.cumsum(0)])
    return edges, np.diff(np.interp(edges, EDGES.double().numpy(), running.numpy()))


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
