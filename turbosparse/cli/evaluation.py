"""What an evaluation shows on the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

from turbosparse.evaluation.offline_tasks import FROM_ITEMS

if TYPE_CHECKING:
    from turbosparse.evaluation.records import EvaluationResult

SCIENTIFIC_FROM = 1e6
"""A perplexity of such a size says only that the model knows nothing of the text."""


def evaluation_tables(found: "EvaluationResult") -> list[Table | str]:
    """Returns the figures with their 95% intervals, the averages, and what must be said about them.

    Of a group only the group itself is shown: MMLU alone has 57 subjects.
    """
    table = Table("task", "items", "shots", "metric", "value", "95%")
    for task in _shown(found):
        shots = str(found.num_fewshot.get(task, ""))
        for metric, value in found.results.get(task, {}).items():
            if "_stderr" not in metric:
                row = task, str(found.num_items[task]), shots, metric, _shown_value(value)
                table.add_row(*row, _interval(found.intervals[task].get(metric)))
    return [table, *_averages(found), *_remarks(found)]


def _shown(found: "EvaluationResult") -> list[str]:
    members = {task for tasks in found.groups.values() for task in tasks}
    return [task for task in found.num_items if task not in members]


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else " – ".join(map(_shown_value, interval))


def _shown_value(value: float) -> str:
    return f"{value:.4f}" if abs(value) < SCIENTIFIC_FROM else f"{value:.4g}"


def _averages(found: "EvaluationResult") -> list[str]:
    return [
        f"average {name}: " + (average["why"] if average["value"] is None else f"{average['value']:.4f}")
        for name, average in found.averages.items()
    ]


def _remarks(found: "EvaluationResult") -> list[str]:
    remarks = []
    cut = [
        f"{task} {found.num_too_long[task]} of {found.num_items[task]}"
        for task in _shown(found)
        if found.num_too_long[task]
    ]
    if cut:
        context = found.settings["context_tokens"]
        remarks.append(
            f"warning: items cut from the left to the context of {context} tokens: {', '.join(cut)}"
        )
    odd = [task for task, source in found.fewshot_source.items() if source == FROM_ITEMS]
    if odd:
        remarks.append(f"warning: examples are {FROM_ITEMS}, for lack of a split: {', '.join(odd)}")
    return remarks
