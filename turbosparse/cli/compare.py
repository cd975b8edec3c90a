"""`compare`: evaluations side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from turbosparse.cli.common import JsonOption, console, finish
from turbosparse.errors import DataError

if TYPE_CHECKING:
    from turbosparse.evaluation.compare import Difference

app = typer.Typer()

HEADER = ("evaluation", "task, metric", "items", "first", "this", "95% of the difference", "p", "so")


@app.command()
def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: URIs of evaluate artifacts, or folders of evaluate --out; LABEL=URI names one."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json and comparison.md.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare evaluations with the first of them, item by item: regressions first, with their p-values."""
    from turbosparse.evaluation.compare import (  # noqa: PLC0415 - numpy and the suites
        compare,
        how_compared,
        open_evaluation,
    )

    opened = {label: open_evaluation(where) for label, where in _labelled(evaluations).items()}
    differences = compare(opened)
    rows = [_row(one) for one in differences]
    table = Table()
    for name in HEADER:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    report = {
        "first": next(iter(opened)),
        "evaluations": {
            label: {"uri": where, "settings": opened[label].settings}
            for label, where in _labelled(evaluations).items()
        },
        "differences": [one.as_json() for one in differences],
        "how": how_compared(),
    }
    for path in _write(report, rows, out) if out else []:
        console.print(str(path))
    finish(report, as_json)


def _labelled(given: Sequence[str]) -> dict[str, str]:
    """Returns URIs by label: what stands before `=`, else the last two parts of the path."""
    found: dict[str, str] = {}
    for text in given:
        label, equals, where = text.partition("=")
        if not equals or "/" in label:
            label, where = "/".join(text.rstrip("/").split("/")[-2:]), text
        if label in found:
            raise DataError("evaluations", text, "labels that differ", "name them: LABEL=URI")
        found[label] = where
    return found


def _row(one: "Difference") -> list[str]:
    from turbosparse.evaluation.compare import show_figure  # noqa: PLC0415 - numpy and the suites

    low, high = one.interval
    return [
        one.evaluation,
        f"{one.task}, {one.metric}",
        f"{one.num_items:,}",
        show_figure(one.baseline_value),
        show_figure(one.value),
        f"{show_figure(low, '+')} – {show_figure(high, '+')}",
        f"{one.corrected_p_value:.2g}",
        one.verdict,
    ]


def _write(report: dict[str, Any], rows: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_markdown = folder / "comparison.json", folder / "comparison.md"
    as_json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    lines = ["| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *rows)]
    how = report["how"]
    note = (
        f"Compared with {report['first']}. p-values are two-sided, from paired items: McNemar's exact test "
        f"where items are right or wrong, else {how['num_resamples']:,} random signs; {how['correction']}'s "
        f"correction for the number of tasks; a difference counts below {how['significance']:g}. Intervals: "
        f"{how['num_resamples']:,} paired bootstrap resamples, seed {how['seed']}."
    )
    as_markdown.write_text("\n".join(["# Comparison", "", *lines, "", note, ""]), encoding="utf-8")
    return [as_json, as_markdown]
