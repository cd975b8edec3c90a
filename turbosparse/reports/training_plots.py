"""A training run in one picture: loss, sparsity, speed, and what the optimizer did."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from turbosparse.train.history import StepRecord

History = list[StepRecord]


def plot_training(history: History, title: str, path: Path) -> None:
    """Draws a training run to a PNG, in four panels over optimizer steps.

    Loss on the training batches and, by category, on held-back text; zero activations by layer; tokens
    per second with MFU where it is known; gradient norm and learning rate.
    """
    figure, panels = plt.subplots(2, 2, figsize=(12, 7.5), sharex=True)
    draw = (_draw_loss, _draw_sparsity, _draw_speed, _draw_optimizer)
    for axes, draw_panel in zip(panels.flat, draw, strict=True):
        draw_panel(axes, history)
        axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"Training: {title}")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_loss(axes: Axes, history: History) -> None:
    axes.plot([r.step for r in history], [r.loss for r in history], color="black", label="training")
    skipped = [record for record in history if record.is_skipped]
    if skipped:
        axes.plot([r.step for r in skipped], [r.loss for r in skipped], "rx", label="skipped")
    validated = [record for record in history if record.validation_losses]
    for category in sorted({name for record in validated for name in record.validation_losses or {}}):
        losses = [(record.validation_losses or {})[category] for record in validated]
        axes.plot([r.step for r in validated], losses, "o--", markersize=3, label=f"held back: {category}")
    axes.set_ylabel("loss per token, nats")
    axes.legend(fontsize=7, ncols=2, framealpha=0.6)


def _draw_sparsity(axes: Axes, history: History) -> None:
    measured = [record for record in history if record.zero_activation_layers is not None]
    steps = [record.step for record in measured]
    layers = list(zip(*(record.zero_activation_layers or [] for record in measured), strict=True))
    colours = plt.get_cmap("viridis")
    for number, ratios in enumerate(layers):
        colour = colours(number / max(1, len(layers) - 1))
        label = f"layer {number}" if number in (0, len(layers) - 1) else None
        axes.plot(steps, [100 * ratio for ratio in ratios], color=colour, linewidth=1, label=label)
    means = [100 * (record.zero_activation_ratio or 0.0) for record in measured]
    axes.plot(steps, means, color="black", linewidth=2, label="mean")
    axes.set_ylabel("zero activations, %")
    axes.set_ylim(0, 100)
    axes.legend(fontsize=7, loc="lower right")


def _draw_speed(axes: Axes, history: History) -> None:
    steps = [record.step for record in history]
    (speed,) = axes.plot(steps, [r.tokens_per_second for r in history], color="tab:green", label="tokens/s")
    axes.set_ylabel("tokens per second")
    axes.set_ylim(bottom=0)
    lines = [speed]
    if all(record.mfu is not None for record in history):
        right = axes.twinx()
        lines += right.plot(steps, [100 * (r.mfu or 0.0) for r in history], color="tab:purple", label="MFU")
        right.set_ylabel("MFU, %")
        right.set_ylim(0, 100)
    axes.legend(handles=lines, fontsize=7, loc="lower right")


def _draw_optimizer(axes: Axes, history: History) -> None:
    norms = {record.step: record.gradient_norm for record in history if record.gradient_norm is not None}
    lines = axes.plot(list(norms), list(norms.values()), color="tab:red", label="gradient norm")
    axes.set_ylabel("gradient norm, before clipping")
    axes.set_yscale("log")
    right = axes.twinx()
    rates = [record.learning_rate for record in history]
    lines += right.plot([r.step for r in history], rates, color="tab:gray", label="learning rate")
    right.set_ylabel("learning rate")
    right.set_ylim(bottom=0)
    axes.legend(handles=lines, fontsize=7, loc="upper right")
