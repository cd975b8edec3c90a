"""Table 3: perplexity where only each token's largest activations are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from turbosparse.analysis.topk import measure_perplexity, topk_mask
from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.reports.activation_plots import plot_against_sparsity
from turbosparse.reproduce.common import (
    LoadedModel,
    Reproduction,
    Request,
    loaded_models,
    perplexity_windows,
    required_text,
)
from turbosparse.reproduce.study import trained_arms

SPARSITIES = (0.0, 0.5, 0.8, 0.85, 0.9)
PAPER = {
    "dReLU": (28.45, 28.45, 28.45, 28.65, 29.19),
    "SwiGLU": (28.48, 28.62, 36.28, 48.55, 112.36),
}


def reproduce(request: Request) -> Reproduction:
    """Measures each model's perplexity on the request's text at the paper's sparsities.

    Where no model is given, these are the study's arms, and the text is what their corpus keeps back.

    Raises:
        DataError: Models without text.
        TurboSparseError: The study can't run as requested.
        TrainingError: A training process failed.

    Reference: Equations 3 and 4, and Table 3, of the paper.
    """
    request = request if request.models else with_arms(request)
    text = required_text(request)
    measured = {loaded.label: _measure(request, loaded) for loaded in loaded_models(request)}
    plot = request.out / "table3.png"
    _plot(measured, text, plot)
    rows = [
        [f"{label} ({figures['activation']})", *(f"{value:.2f}" for value in figures["perplexity"])]
        for label, figures in measured.items()
    ]
    rows += [[f"paper: {label}", *(f"{value:.2f}" for value in line)] for label, line in PAPER.items()]
    return Reproduction(
        name="table3",
        title=f"Table 3: perplexity on {text.name} by sparsity",
        header=["model", *(f"{sparsity:.0%}" for sparsity in SPARSITIES)],
        rows=rows,
        measured=measured | {"sparsities": SPARSITIES},
        paper=PAPER,
        notes=[
            "Columns are the share of each token's activations set to zero in every FFN and expert: the "
            'paper heads them "Top-k%", and its 0 is the untouched model.',
            "Perplexity per token of each model's own tokenizer, the file's rows joined by line breaks and "
            f"cut into windows of {_window_list(measured)} tokens, beginning of text before each.",
            "The paper's models have 300M parameters, trained on 5B tokens; its text is WikiText-2.",
        ],
        plots=[plot],
    )


def with_arms(request: Request) -> Request:
    """Returns the request with the study's arms as its models, and with a text."""
    arms = trained_arms(request)
    models = [f"{arm.label}={arm.model_folder}" for arm in arms]
    return replace(request, models=models, text=request.text or arms[0].corpus.folder() / HELD_BACK_NAME)


def _measure(request: Request, loaded: LoadedModel) -> dict[str, Any]:
    windows = perplexity_windows(request, loaded)
    perplexities = []
    for sparsity in SPARSITIES:
        with topk_mask(loaded.model, 1 - sparsity):
            found = measure_perplexity(loaded.model, windows)
        perplexities.append(found.perplexity)
    return {
        "activation": loaded.activation,
        "perplexity": perplexities,
        "num_predicted_tokens": found.num_predicted_tokens,
        "window_tokens": loaded.window_tokens,
    }


def _window_list(measured: dict[str, Any]) -> str:
    return ", ".join(sorted({f"{figures['window_tokens']:,}" for figures in measured.values()}))


def _plot(measured: dict[str, Any], text: Path, path: Path) -> None:
    curves = {label: figures["perplexity"] for label, figures in measured.items()}
    title = f"Perplexity with only the largest activations, {text.name}"
    plot_against_sparsity(SPARSITIES, curves, "perplexity per token", title, path, log_scale=True)
