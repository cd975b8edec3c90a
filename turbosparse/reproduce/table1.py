"""Table 1: sparsity of SwiGLU, ReLU and shifted-ReLU models."""

from typing import Any

from turbosparse.analysis.activity import mean
from turbosparse.analysis.report import near_zero_by_threshold
from turbosparse.analysis.statistics import AnalysisPlan
from turbosparse.reproduce.common import Reproduction, Request, analysed_models, percent
from turbosparse.reproduce.made import ORIGINAL, RELU, SHIFTED_RELU, given_or_made

MODELS = (ORIGINAL, RELU, SHIFTED_RELU)
PAPER = {"Llama-2-7B": 0.40, "ReLULlama-7B": 0.67, "ShiftedReLULlama-7B": 0.71}


def reproduce(request: Request) -> Reproduction:
    """Measures the share of zero and near-zero activations of each model; makes three where none is given.

    Raises:
        DataError: Models without text.
        TurboSparseError: The models can't be made as requested.

    Reference: Table 1 of the paper.
    """
    plan, given = AnalysisPlan(with_histograms=False), given_or_made(request, MODELS)
    measured: dict[str, dict[str, Any]] = {}
    for loaded, analysis in analysed_models(given.request, plan):
        measured[loaded.label] = {
            "activation": loaded.activation,
            "zero_activation_ratio": mean(analysis.layers(), "zero_activation_ratio"),
            "near_zero_by_threshold": near_zero_by_threshold(analysis),
            "num_tokens": analysis.num_tokens,
        }
    rows = [_row(label, figures, plan) for label, figures in measured.items()]
    blank = ["–"] * (1 + len(plan.thresholds))
    rows += [[f"paper: {label}", *blank, percent(ratio)] for label, ratio in PAPER.items()]
    return Reproduction(
        name="table1",
        title="Table 1: model sparsity, SwiGLU against ReLU",
        header=[
            "model",
            "exactly zero",
            *(f"≤ {threshold:g} RMS" for threshold in plan.thresholds),
            "counting not stated",
        ],
        rows=rows,
        measured=measured,
        paper=PAPER,
        notes=[
            *given.notes,
            "Shares of combined activations, mean over layers.",
            "The paper does not say how it counted. SwiGLU gives next to no exact zeros, so its 40% must "
            "be a count of small values. Near zero here: |h| at most the threshold times the root mean "
            "square of that token's h. Dropping those changes h by at most that share of its norm.",
            "The paper's models are Llama-2-7B and two that were trained from it; others are measured here.",
        ],
    )


def _row(label: str, figures: dict[str, Any], plan: AnalysisPlan) -> list[str]:
    near_zero = figures["near_zero_by_threshold"]
    cells = [percent(near_zero[str(threshold)]) for threshold in plan.thresholds]
    return [f"{label} ({figures['activation']})", percent(figures["zero_activation_ratio"]), *cells, "–"]
