"""The predictors' report as files: figures by layer, and the trade-off that thresholds were chosen from."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from turbosparse.analysis.activity import FFNActivity
from turbosparse.predictors.thresholds import ChosenThresholds, TradeOff

# The quality that is aimed at: perplexity at most this much above exact, predicted over truly active.
PERPLEXITY_BAR, SIZE_BAR = 1.01, 1.3


def write_predictor_report(
    quality: Mapping[str, Any], layers: list[FFNActivity], chosen: ChosenThresholds, folder: Path
) -> list[Path]:
    """Writes predictors.json, predictors.png, trade_off.csv and trade_off.png to a folder; returns them.

    Args:
        quality: what `measure_quality` returned.
        layers: the layers' activity on the same text.
        chosen: thresholds and the curve they were chosen from.
        folder: exists.
    """
    record = folder / "predictors.json"
    content = {"quality": quality, "thresholds": chosen.as_json()}
    record.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    table, by_layer, trade_off = (
        folder / name for name in ("trade_off.csv", "predictors.png", "trade_off.png")
    )
    write_trade_off(chosen.curve, table)
    plot_predictors(layers, by_layer)
    plot_trade_off({"": chosen.curve}, trade_off)
    return [record, by_layer, table, trade_off]


def write_trade_off(curve: Sequence[TradeOff], path: Path) -> None:
    """Writes a curve's points to a CSV file; a point's thresholds stand in one cell."""
    names = [field.name for field in fields(TradeOff)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for point in curve:
            writer.writerow(
                asdict(point) | {"thresholds": " ".join(f"{value:g}" for value in point.thresholds)}
            )


def plot_predictors(layers: list[FFNActivity], path: Path) -> None:
    """Draws the predictors' recall, precision and size by layer to a PNG.

    They belong together: recall alone rewards a predictor that keeps everything.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5))
    numbers = [activity.layer for activity in layers]
    lines = {
        "recall": "recall",
        "precision": "precision",
        "predicted_active_ratio": "predicted active",
        "true_active_ratio": "truly active",
    }
    for field, label in lines.items():
        axes.plot(numbers, [100 * getattr(activity, field) for activity in layers], "o-", label=label)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.legend(loc="center right")
    axes.set_title("Activation predictors on held-back text")
    _save(figure, path)


def plot_trade_off(curves: Mapping[str, Sequence[TradeOff]], path: Path) -> None:
    """Draws recall and perplexity against the predicted active ratio to a PNG.

    Args:
        curves: points by label; those of thresholds by layer and of global ones are drawn apart.
        path: the PNG to write.
    """
    figure, (recall_axes, perplexity_axes) = plt.subplots(1, 2, figsize=(11, 4.5))
    for label, curve in curves.items():
        for kind, style in (("by layer", "o-"), ("global", "s--")):
            points = sorted((point for point in curve if point.kind == kind), key=lambda point: point.recall)
            size = [100 * point.predicted_active_ratio for point in points]
            name = f"{label}, {kind}" if label else f"threshold {kind}"
            recall_axes.plot(size, [100 * point.recall for point in points], style, ms=4, label=name)
            loss = [100 * (point.perplexity_ratio - 1) for point in points]
            perplexity_axes.plot(size, loss, style, ms=4, label=name)
    true_ratio = next(iter(curves.values()))[0].true_active_ratio
    for axes in (recall_axes, perplexity_axes):
        _mark_sizes(axes, true_ratio)
    perplexity_axes.axhline(100 * (PERPLEXITY_BAR - 1), color="grey", linestyle="-.", linewidth=1)
    recall_axes.set_ylabel("recall, %")
    perplexity_axes.set_ylabel("perplexity above exact, %")
    perplexity_axes.set_yscale("symlog", linthresh=0.1)
    perplexity_axes.yaxis.set_major_formatter("{x:g}")
    recall_axes.legend(loc="lower right", fontsize=8)
    perplexity_axes.legend(loc="upper right", fontsize=8)
    figure.suptitle("What predictors keep, and what that does")
    _save(figure, path)


def _mark_sizes(axes: Axes, true_ratio: float) -> None:
    axes.axvline(100 * true_ratio, color="grey", linestyle=":", linewidth=1)
    axes.axvline(100 * SIZE_BAR * true_ratio, color="grey", linestyle="-.", linewidth=1)
    label = f"predicted active, % of neurons (dotted: truly active; dash-dotted: {SIZE_BAR} times)"
    axes.set_xlabel(label, fontsize=8)
    axes.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
