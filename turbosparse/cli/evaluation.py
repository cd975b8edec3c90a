"""What an evaluation shows on the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from turbosparse.evaluation.records import EvaluationResult


def evaluation_tables(found: "EvaluationResult") -> list[Table | str]:
    """Returns the figures with their 95% intervals, the averages, and what must be said about them."""
    table = Table("task", "items", "shots", "metric", "value", "95%")
    for task, metrics in found.results.items():
        shots = str(found.num_fewshot.get(task, ""))
        for metric, value in metrics.items():
            if "_stderr" not in metric:
                row = task, str(found.num_items[task]), shots, metric, f"{value:.4f}"
                table.add_row(*row, _interval(found.intervals[task].get(metric)))
    return [table, *_averages(found), *_remarks(found)]


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} – {interval[1]:.4f}"


def _averages(found: "EvaluationResult") -> list[str]:
    return [
        f"average {name}: " + (average["why"] if average["value"] is None else f"{average['value']:.4f}")
        for name, average in found.averages.items()
    ]


def _remarks(found: "EvaluationResult") -> list[str]:
    remarks = []
    for task, num_items in found.num_too_long.items():
        if num_items:
            context = found.settings["context_tokens"]
            remarks.append(
                f"warning: {task}: {num_items} of {found.num_items[task]} items were cut from the left to "
                f"the model's context of {context} tokens"
            )
    odd = [task for task, source in found.fewshot_source.items() if "same file" in source]
    if odd:
        remarks.append(f"warning: {', '.join(odd)}: examples are other items: the data has no split for them")
    return remarks
