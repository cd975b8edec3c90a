"""Figure 4: training loss of the study's SwiGLU and dReLU models."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from turbosparse.reproduce.common import Reproduction, Request
from turbosparse.reproduce.study import Arm, describe_scale, trained_arms

SMOOTHED_SHARE = 20
"""A smoothed loss is the mean over one part in this many of the steps."""
PAPER = {"curves": "similar convergence; SwiGLU's loss ends lower (Section 3.2)"}


@dataclass(frozen=True)
class Curve:
    """An arm's loss by optimizer step, in nats per token."""

    label: str
    loss: list[float]
    smoothed_loss: list[float]
    final_loss: float
    """Mean over the last tenth of the steps."""


def reproduce(request: Request) -> Reproduction:
    """Trains both arms, or finds them, and draws their training losses.

    Raises:
        TurboSparseError: The study can't run as requested.
        TrainingError: A training process failed.

    Reference: Figure 4 and Section 3.2 of the paper.
    """
    arms = trained_arms(request)
    curves = [_curve(arm) for arm in arms]
    plot, table = request.out / "figure4.png", request.out / "figure4.csv"
    plot_losses(curves, arms[0].step_tokens, plot)
    write_losses(curves, arms[0].step_tokens, table)
    return Reproduction(
        name="figure4",
        title="Figure 4: training loss of SwiGLU and dReLU trained alike",
        header=["model", "first step", "quarter", "half", "three quarters", "last tenth of the steps"],
        rows=[_row(curve) for curve in curves] + [["paper", "–", "–", "–", "–", "SwiGLU's lower"]],
        measured={
            arm.label: arm.as_json() | {"loss": curve.loss, "smoothed_loss": curve.smoothed_loss}
            for arm, curve in zip(arms, curves, strict=True)
        },
        paper=PAPER,
        notes=[
            describe_scale(request, arms[0]),
            f"Nats per token. Quarter, half and three quarters are smoothed: the mean over the last "
            f"{smoothed_steps(len(curves[0].loss))} steps.",
            "The paper gives this figure as a picture: its points are not in the text; the words are.",
        ],
        plots=[plot],
        tables=[table],
    )


def smoothed_steps(num_steps: int) -> int:
    """Returns how many steps a smoothed loss is the mean of."""
    return max(1, num_steps // SMOOTHED_SHARE)


def smooth(loss: Sequence[float], num_smoothed: int) -> list[float]:
    """Returns each step's mean over itself and the steps before it, `num_smoothed` in all or fewer."""
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    ends = np.arange(1, len(loss) + 1)
    starts = np.maximum(ends - num_smoothed, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def write_losses(curves: Sequence[Curve], step_tokens: int, path: Path) -> None:
    """Writes one row per step: step, tokens so far, each curve's loss and smoothed loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{curve.label}{kind}" for curve in curves for kind in (" loss", " smoothed loss")]
    columns = [values for curve in curves for values in (curve.loss, curve.smoothed_loss)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "num_tokens", *names])
        for step, losses in enumerate(zip(*columns, strict=True), start=1):
            writer.writerow([step, step * step_tokens, *losses])


def plot_losses(curves: Sequence[Curve], step_tokens: int, path: Path) -> None:
    """Draws the losses by step, raw ones pale, to a PNG."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    steps = range(1, len(curves[0].loss) + 1)
    for curve in curves:
        label = f"{curve.label} (last tenth: {curve.final_loss:.3f})"
        (line,) = axes.plot(steps, curve.smoothed_loss, label=label)
        axes.plot(steps, curve.loss, color=line.get_color(), alpha=0.3, linewidth=0.8)
    axes.set_xlabel(f"optimizer step, of {step_tokens:,} tokens")
    axes.set_ylabel("training loss per token, nats")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"Figure 4: training loss, pale: each step, full: mean of {smoothed_steps(len(steps))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(arm: Arm) -> Curve:
    loss = [record.loss for record in arm.history]
    smoothed = smooth(loss, smoothed_steps(len(loss)))
    return Curve(arm.label, loss, smoothed, arm.as_json()["training_loss"])


def _row(curve: Curve) -> list[str]:
    num_steps = len(curve.loss)
    between = [curve.smoothed_loss[quarter * num_steps // 4] for quarter in (1, 2, 3)]
    return [curve.label, *(f"{loss:.3f}" for loss in (curve.loss[0], *between, curve.final_loss))]
