"""Table 13: the original and the sparsified models on commonsense tasks."""

from turbosparse.reports.paper import TABLE_13
from turbosparse.reproduce.common import Reproduction, Request
from turbosparse.reproduce.leaderboard import (
    Column,
    Leaderboard,
    mean_of,
    reproduce_leaderboard,
    wrong_averages,
)

TASKS = tuple(map(Column.of, TABLE_13))
AVERAGE = mean_of("average", TASKS, 71.11, 75.87, 76.26, 78.07, 78.53)
METRIC_NOTES = (
    "The paper says neither which accuracy it gives nor how many examples its prompts have. Here none, and "
    "acc, but for OpenBookQA acc_norm; the JSON has every metric.",
)


def reproduce(request: Request) -> Reproduction:
    """Evaluates the original and the tuned models on PIQA, SciQ, ARC-easy and OpenBookQA.

    Raises:
        TurboSparseError: A model can't be made as requested, or a task can't be run.
        TrainingError: A training process failed.

    Reference: Table 13 and Appendix A.3 of the paper.
    """
    board = Leaderboard(
        name="table13",
        title="Table 13: commonsense tasks, original against sparsified",
        suites=("commonsense",),
        columns=(*TASKS, AVERAGE),
        notes=(*METRIC_NOTES, *wrong_averages(AVERAGE, TASKS)),
    )
    return reproduce_leaderboard(board, request)
