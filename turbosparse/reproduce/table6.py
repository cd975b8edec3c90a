"""Table 6: the original and the sparsified models on the Open LLM Leaderboard's tasks."""

from turbosparse.reports.paper import PAPER_MODELS, TABLE_6
from turbosparse.reproduce.activated import MODELS as ACTIVATED
from turbosparse.reproduce.common import Reproduction, Request
from turbosparse.reproduce.leaderboard import (
    Column,
    Leaderboard,
    mean_of,
    reproduce_leaderboard,
    wrong_averages,
)
from turbosparse.reproduce.table13 import AVERAGE as COMMONSENSE_AVERAGE
from turbosparse.reproduce.table13 import TASKS as COMMONSENSE_TASKS

TASKS = tuple(map(Column.of, TABLE_6))
COMMONSENSE = mean_of("CommonSense", COMMONSENSE_TASKS, 63.4, 75.8, 76.2, 78.07, 78.52)
AVERAGE = mean_of("OpenLLM average", TASKS, 46.46, 61.57, 63.65, 69.34, 71.76)
TOLERANCE_POINTS = 0.11
"""The table rounds some of Table 13's averages to one decimal, or cuts them."""


def reproduce(request: Request) -> Reproduction:
    """Evaluates the original and the tuned models on the leaderboard's tasks, with the paper's examples.

    Raises:
        TurboSparseError: A model can't be made as requested, or a task can't be run.
        TrainingError: A training process failed.

    Reference: Table 6 and Section 6.1 of the paper.
    """
    board = Leaderboard(
        name="table6",
        title="Table 6: downstream tasks, original against sparsified",
        suites=("openllm", "commonsense"),
        columns=(*TASKS, COMMONSENSE, AVERAGE),
        notes=tuple(contradictions()),
    )
    return reproduce_leaderboard(board, request)


def contradictions() -> list[str]:
    """Returns where the paper contradicts itself, with the figures as they compute."""
    lines = wrong_averages(AVERAGE, TASKS)
    averages = zip(PAPER_MODELS, COMMONSENSE.percent, COMMONSENSE_AVERAGE.percent, strict=True)
    for model, here, there in averages:
        if abs(here - there) > TOLERANCE_POINTS:
            lines.append(f"{model}'s CommonSense is {here:.2f} here and {there:.2f} in the paper's Table 13.")
    for counted in ACTIVATED:
        lines.append(
            f"Activated parameters of {counted.name}: {counted.table_billions}B in the table, "
            f"{counted.text_billions:g}B in Section 6.1's words on it; `reproduce activated` counts them."
        )
    return lines
