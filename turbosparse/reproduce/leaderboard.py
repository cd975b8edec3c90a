"""What Tables 6 and 13 share: the original and the sparsified models on the paper's tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turbosparse.analysis.report import report_analysis
from turbosparse.analysis.statistics import AnalysisPlan
from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.artifacts.lineage import spec_of
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.records import EvaluationResult, read_result, write_result
from turbosparse.reports.paper import PAPER_MODELS, PaperTask
from turbosparse.reproduce.common import LoadedModel, Reproduction, Request, analysed_models
from turbosparse.reproduce.made import (
    MOE_ORIGINAL,
    MOE_TUNED,
    ORIGINAL,
    TUNED,
    Given,
    Model,
    given_or_made,
)
from turbosparse.stages.inputs import digest_folder

MODELS = (ORIGINAL, TUNED, MOE_ORIGINAL, MOE_TUNED)
PAPER_PARAMETERS = (("2B", "2B"), ("7B", "7B"), ("7B", "2.5B"), ("47B", "13B"), ("47B", "4.3B"))
"""In all and activated, as the tables' heads have them."""
LOCAL_TASKS = ("local_cloze",)
"""What is measured where there is neither a data folder nor a task."""
NOT_MEASURED = "not measured"
ROUNDING_POINTS = 0.0101
"""How far a mean of figures of two decimals may be from one that was rounded or cut to two."""


@dataclass(frozen=True)
class Column:
    """A column of the paper's table: a task, or the mean of several."""

    title: str
    percent: tuple[float, ...]
    """The paper's figures, by PAPER_MODELS."""
    metrics: Mapping[str, str]
    """By task, as the harness names them: the metric that counts."""

    @classmethod
    def of(cls, known: PaperTask) -> "Column":
        """Returns the column of one task."""
        return cls(known.title, known.percent, {known.task: known.metric})

    def value(self, results: Mapping[str, Mapping[str, float]]) -> float | None:
        """Returns ours, in [0, 1]; None where a task was not run."""
        found = [results.get(task, {}).get(metric) for task, metric in self.metrics.items()]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if len(known) == len(found) else None


def mean_of(title: str, columns: Sequence[Column], *percent: float) -> Column:
    """Returns the column that is the mean of others."""
    return Column(title, percent, {task: metric for one in columns for task, metric in one.metrics.items()})


@dataclass(frozen=True)
class Leaderboard:
    """One of the two tables."""

    name: str
    title: str
    suites: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]


def reproduce_leaderboard(board: Leaderboard, request: Request) -> Reproduction:
    """Evaluates the request's models, or those that its scale makes, on a table's tasks.

    Raises:
        TurboSparseError: A model can't be made as requested, or a task can't be run.
        TrainingError: A training process failed.
    """
    given = given_or_made(request, MODELS)
    tasks = tasks_of(board, request)
    models = {model.label: model for model in given.models}
    measured: dict[str, dict[str, Any]] = {}
    for loaded, analysis in analysed_models(given.request, AnalysisPlan(with_histograms=False)):
        found = evaluated(given, models[loaded.label], loaded, tasks)
        measured[loaded.label] = {
            "num_parameters": sum(weight.numel() for weight in loaded.model.parameters()),
            "activated_parameters": report_analysis(loaded.model, analysis)["activated_parameters"],
            "zero_activation_ratio": report_analysis(loaded.model, analysis)["zero_activation_ratio"],
            **found.summary(),
        }
    header, rows = tabulate(board.columns, measured)
    return Reproduction(
        name=board.name,
        title=board.title,
        header=header,
        rows=rows,
        measured=measured,
        paper=paper_figures(board.columns),
        notes=[*given.notes, *_notes(board, measured), *board.notes],
    )


def tasks_of(board: Leaderboard, request: Request) -> tuple[str, ...]:
    """Returns what is run: the request's tasks, else the table's where their items can be had."""
    if request.tasks:
        return tuple(request.tasks)
    return board.suites if request.data is not None or request.scale != "tiny" else LOCAL_TASKS


def evaluated(given: Given, model: Model, loaded: LoadedModel, tasks: Sequence[str]) -> EvaluationResult:
    """Returns a model's evaluation; where the model is an artifact, found in the store or kept there."""
    request = given.request

    def evaluate() -> EvaluationResult:
        return evaluate_model(
            loaded.model,
            loaded.tokenizer,
            tasks,
            request.data,
            request.limit,
            request.listener.on_progress,
            EvaluationOptions(held_back=given.held_back),
        )

    if model.artifact is None:
        return evaluate()

    def build(workspace: Workspace) -> dict[str, Any]:
        found = evaluate()
        write_result(found, workspace.folder)
        return found.summary()

    store = Store.at(model.artifact.store)
    parents = {"model": spec_of(store, model.artifact.manifest.name)}
    inputs = {"evaluation": digest_folder(str(request.data), ("*.jsonl",))} if request.data else {}
    config = {"tasks": list(tasks), "limit": request.limit, "mode": "dense"}
    return read_result(
        store.produce(ArtifactSpec("task-results", 1, config, parents, inputs), build).folder()
    )


def tabulate(
    columns: Sequence[Column], measured: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: our models' figures, the paper's below."""
    others = [task for task in next(iter(measured.values()))["results"] if task in LOCAL_TASKS]
    header = ["model", "parameters", "activated", *(column.title for column in columns), *others]
    rows = [_row(label, columns, others, figures) for label, figures in measured.items()]
    for number, model in enumerate(PAPER_MODELS):
        cells = [f"{column.percent[number]:.2f}" for column in columns]
        rows.append([f"paper: {model}", *PAPER_PARAMETERS[number], *cells, *["–"] * len(others)])
    return header, rows


def paper_figures(columns: Sequence[Column]) -> dict[str, Any]:
    """Returns the paper's figures by model and column, in percent."""
    return {
        model: {column.title: column.percent[number] for column in columns}
        for number, model in enumerate(PAPER_MODELS)
    }


def wrong_averages(average: Column, columns: Sequence[Column]) -> list[str]:
    """Returns a line for each model whose average in the paper is not the mean of its own figures."""
    lines = []
    for number, model in enumerate(PAPER_MODELS):
        mean = sum(column.percent[number] for column in columns) / len(columns)
        stated = average.percent[number]
        if abs(mean - stated) > ROUNDING_POINTS:
            lines.append(
                f"The paper gives {stated:.2f} as {model}'s {average.title}; its own {len(columns)} figures "
                f"have a mean of {mean:.2f}."
            )
    return lines


def _row(
    label: str, columns: Sequence[Column], others: Sequence[str], figures: Mapping[str, Any]
) -> list[str]:
    results = figures["results"]
    values = [column.value(results) for column in columns] + [results[task]["acc"] for task in others]
    cells = [NOT_MEASURED if value is None else f"{100 * value:.2f}" for value in values]
    sizes = (figures["num_parameters"], figures["activated_parameters"]["total"])
    return [label, *(f"{size / 1e6:,.2f}M" for size in sizes), *cells]


def _notes(board: Leaderboard, measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(measured.values()))
    wanted = dict.fromkeys(task for column in board.columns for task in column.metrics)
    missing = [task for task in wanted if task not in first["results"]]
    notes = [
        "Percent. Activated parameters: those that a machine reads per token, as `turbosparse sparsity` "
        "counts them, predictors included. Predictors were off: dReLU's own zeros are exact.",
    ]
    if missing:
        notes.append(
            f"Not measured: {', '.join(missing)}: their items come from a data folder (--data DIR), or from "
            "the hub if they are named (--tasks)."
        )
    if first["settings"]["limit"] is not None:
        notes.append(f"At most {first['settings']['limit']} items of each task.")
    odd = [task for task, source in first["fewshot_source"].items() if "same file" in source]
    if odd:
        notes.append(f"Examples of {', '.join(odd)} are other items of the same file: the data has no split.")
    cut = {task: count for task, count in first["num_too_long"].items() if count}
    if cut:
        context = first["settings"]["context_tokens"]
        notes.append(f"{sum(cut.values())} items had their prompts cut to the context of {context} tokens.")
    return notes
