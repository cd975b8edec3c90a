"""Table 10: accuracy of the study's SwiGLU and dReLU models on evaluation tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.suites import SUITES
from turbosparse.reproduce.common import LoadedModel, Reproduction, Request, percent
from turbosparse.reproduce.study import Arm, describe_scale, labelled, loaded_arms, trained_arms

TASKS = tuple(task.name for task in SUITES["table10"].tasks)
"""The paper's tasks, by lm-evaluation-harness's names, in its order."""
PAPER_PERCENT = {
    "SwiGLU": (40.03, 22.95, 62.68, 52.72, 60.92, 31.63, 24.34),
    "dReLU": (40.07, 22.44, 63.82, 52.33, 61.50, 31.08, 24.35),
}
PAPER_AVERAGE_PERCENT = {"SwiGLU": 42.18, "dReLU": 42.23}


def reproduce(request: Request) -> Reproduction:
    """Trains both arms, or finds them, and evaluates them on the request's tasks.

    With a data folder and no task named, on the paper's.

    Raises:
        TurboSparseError: The study can't run as requested, or a task can't be run.
        TrainingError: A training process failed.

    Reference: Table 10 and Appendix A.1 of the paper.
    """
    arms = trained_arms(request)
    measured = {
        arm.label: arm.as_json() | _evaluate(request, arm, loaded)
        for arm, loaded in loaded_arms(request, arms)
    }
    accuracies = {label: figures["accuracy"] for label, figures in measured.items()}
    header, rows = tabulate(accuracies)
    return Reproduction(
        name="table10",
        title="Table 10: accuracy of SwiGLU and dReLU trained alike",
        header=header,
        rows=rows,
        measured=measured,
        paper={
            label: dict(zip(TASKS, values, strict=True)) | {"average": PAPER_AVERAGE_PERCENT[label]}
            for label, values in PAPER_PERCENT.items()
        },
        notes=[describe_scale(request, arms[0]), *_notes(accuracies["dReLU"])],
    )


def tabulate(accuracies: Mapping[str, Mapping[str, float] | None]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: each arm's accuracies by task, the paper's beside.

    Args:
        accuracies: fraction right by arm and task; None where nothing was measured.
    """
    others = [task for task in next(iter(accuracies.values())) or {} if task not in TASKS]
    rows = [_row(label, found, [*TASKS, *others]) for label, found in accuracies.items()]
    for label, values in PAPER_PERCENT.items():
        cells = [f"{value:.2f}%" for value in (*values, PAPER_AVERAGE_PERCENT[label])]
        rows.append([f"paper: {label}", *cells[:-1], *["–"] * len(others), cells[-1]])
    return ["model", *TASKS, *others, "average of the paper's"], rows


def average(found: Mapping[str, float]) -> float | None:
    """Returns the mean over the paper's tasks, or None where one of them was not measured."""
    if not found.keys() >= set(TASKS):
        return None
    return sum(found[task] for task in TASKS) / len(TASKS)


def _evaluate(request: Request, arm: Arm, loaded: LoadedModel) -> dict[str, Any]:
    tasks = request.tasks or ([] if request.data is None else TASKS)
    if not tasks:
        why = "no evaluation tasks were named (--tasks), and no data folder was given (--data)"
        return {"accuracy": None, "results": None, "why": why}
    outcome = evaluate_model(
        loaded.model,
        loaded.tokenizer,
        tasks,
        request.data,
        request.limit,
        labelled(request.listener, arm.label).on_progress,
        EvaluationOptions(held_back=arm.corpus.folder() / HELD_BACK_NAME),
    )
    found = {task: figures["acc"] for task, figures in outcome.results.items() if "acc" in figures}
    mean = average(found)
    return {
        "accuracy": found,
        "average": mean,
        "results": outcome.results,
        "num_items": outcome.num_items,
        "num_too_long": outcome.num_too_long,
        "settings": outcome.settings,
        **({} if mean is not None else {"why": f"no average: not measured: {', '.join(_missing(found))}"}),
    }


def _row(label: str, found: Mapping[str, float] | None, tasks: Sequence[str]) -> list[str]:
    if found is None:
        return [label, *["not measured"] * (len(tasks) + 1)]
    mean = average(found)
    cells = [percent(found[task]) if task in found else "not measured" for task in tasks]
    return [label, *cells, "not measured" if mean is None else percent(mean)]


def _missing(found: Mapping[str, float]) -> list[str]:
    return [task for task in TASKS if task not in found]


def _notes(found: Mapping[str, float] | None) -> list[str]:
    notes = [
        "Columns are lm-evaluation-harness's `acc`; the JSON has every metric, `acc_norm` too. The paper "
        "says neither which it gives nor how many examples its prompts have; here the tasks' own defaults.",
    ]
    missing = _missing(found or {})
    if missing:
        notes.append(f"Of the paper's tasks, these were not run: {', '.join(missing)}.")
    return notes
