"""Figure 5: (a) accuracy against sparsity, (b) distribution of activations, dense and mixture of experts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from turbosparse.analysis.histogram import Histogram
from turbosparse.analysis.statistics import AnalysisPlan, analyse
from turbosparse.analysis.text import iterate_windows, read_texts
from turbosparse.analysis.topk import topk_mask
from turbosparse.errors import DataError
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.reports.activation_plots import Panel, plot_against_sparsity, plot_distributions
from turbosparse.reproduce.common import (
    LoadedModel,
    Reproduction,
    Request,
    loaded_models,
    percent,
    required_text,
)
from turbosparse.reproduce.made import MOE_ORIGINAL, ORIGINAL, Given, given_or_made

SPARSITIES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9)
MODELS = (MOE_ORIGINAL, ORIGINAL)
PAPER_TASKS = ("winogrande", "truthfulqa_mc2", "piqa", "lambada_openai", "arc_easy", "arc_challenge")
PAPER_MODELS = ("Deepseek-MoE", "Qwen1.5-MoE", "Mixtral", "Llama-2-7B")
PAPER = {
    "accuracy": {"0.5": "1% to 2% below the untouched model"},
    "tasks": PAPER_TASKS,
    "models": PAPER_MODELS,
    "distribution": "Mistral's and Mixtral's alike, concentrated around 0",
}


def reproduce(request: Request) -> Reproduction:
    """Measures mean accuracy by sparsity, where tasks or their data are given, and draws activations.

    Where no model is given, it makes a mixture of experts and a dense model.

    Raises:
        DataError: Models without text, or a task that can't be run or has no accuracy.
        TurboSparseError: The models can't be made as requested.

    Reference: Figure 5 and Section 4 of the paper.
    """
    if request.data is not None and not request.tasks:
        request = replace(request, tasks=PAPER_TASKS)
    given = given_or_made(request, MODELS)
    request = given.request
    required_text(request)
    measured: dict[str, Any] = {}
    histograms: dict[str, Histogram] = {}
    for loaded in loaded_models(request):
        histograms[loaded.label] = _combined(request, loaded)
        measured[loaded.label] = {
            "activation": loaded.activation,
            "accuracy": _accuracies(given, loaded) if request.tasks else None,
            "why": None if request.tasks else "no evaluation tasks were named",
        }
    rows = [_row(label, figures, bool(request.tasks)) for label, figures in measured.items()]
    rows.append(["paper: MoE models", "–", "–", "1% to 2% below 0%", "–", "–", "–"])
    return Reproduction(
        name="figure5",
        title="Figure 5: activation sparsity of dense and mixture-of-experts models",
        header=["model", *(f"{sparsity:.0%}" for sparsity in SPARSITIES)],
        rows=rows,
        measured=measured | {"sparsities": SPARSITIES, "tasks": list(request.tasks)},
        paper=PAPER,
        notes=[*given.notes, *_notes(request)],
        plots=_plots(request.out, measured, histograms, bool(request.tasks)),
    )


def _combined(request: Request, loaded: LoadedModel) -> Histogram:
    texts = read_texts(required_text(request))
    windows = iterate_windows(loaded.tokenizer, texts, loaded.window_tokens, request.num_tokens)
    return analyse(loaded.model, windows, AnalysisPlan()).histogram("combined")


def _accuracies(given: Given, loaded: LoadedModel) -> list[dict[str, float]]:
    """Returns each task's accuracy and their mean, one mapping per sparsity."""
    request, options = given.request, EvaluationOptions(held_back=given.held_back)
    found = []
    for sparsity in SPARSITIES:
        with topk_mask(loaded.model, 1 - sparsity):
            outcome = evaluate_model(
                loaded.model,
                loaded.tokenizer,
                request.tasks,
                request.data,
                request.limit,
                options=options,
            )
        by_task = {task: _accuracy(task, figures) for task, figures in outcome.results.items()}
        found.append(by_task | {"mean": sum(by_task.values()) / len(by_task)})
    return found


def _accuracy(task: str, figures: dict[str, float]) -> float:
    if "acc" not in figures:
        raise DataError("--tasks", task, "a task that measures acc", "leave it out")
    return figures["acc"]


def _row(label: str, figures: dict[str, Any], has_accuracy: bool) -> list[str]:
    if not has_accuracy:
        return [label, *["not measured"] * len(SPARSITIES)]
    return [f"{label} ({figures['activation']})", *(percent(found["mean"]) for found in figures["accuracy"])]


def _notes(request: Request) -> list[str]:
    what = f"the mean `acc` of {', '.join(request.tasks)}" if request.tasks else "not measured: no --tasks"
    missing = [task for task in PAPER_TASKS if task not in request.tasks]
    notes = [
        f"(a) is {what}. Columns are the share of activations set to zero, per token, FFN and expert.",
        "(b) pools the combined activations of all layers and experts.",
        f"The paper's curves are those of {', '.join(PAPER_MODELS)}, and are not in the text; only the "
        "models named here are drawn.",
    ]
    if missing:
        notes.append(f"Of the paper's tasks, these were not run: {', '.join(missing)}.")
    return notes


def _plots(
    folder: Path, measured: dict[str, Any], histograms: dict[str, Histogram], has_accuracy: bool
) -> list[Path]:
    distribution = folder / "figure5b.png"
    row = [Panel(label, {"combined": histogram}) for label, histogram in histograms.items()]
    plot_distributions([row], "Figure 5 (b): combined activations, all layers and experts", distribution)
    if not has_accuracy:
        return [distribution]
    accuracy = folder / "figure5a.png"
    curves = {
        label: [100 * found["mean"] for found in figures["accuracy"]] for label, figures in measured.items()
    }
    title = "Figure 5 (a): accuracy with only the largest activations"
    plot_against_sparsity(SPARSITIES, curves, "mean accuracy, %", title, accuracy)
    return [accuracy, distribution]
