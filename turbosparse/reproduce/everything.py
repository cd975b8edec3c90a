"""All tables and figures of a scale, one after the other, and a page that has them all."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from turbosparse.progress import Progress
from turbosparse.reports.page import Block, Links, Notes, Page, Picture, Section, Table, Text, write_page
from turbosparse.reproduce.common import Reproduction, Request, write_reproduction
from turbosparse.reproduce.differs import describe_difference, describe_hardware
from turbosparse.reproduce.leaderboard import LOCAL_TASKS

TABLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13)
FIGURES = (3, 4, 5, 6, 7)
ALL = (*(f"table{number}" for number in TABLES), *(f"figure{number}" for number in FIGURES), "activated")
STUDY = ("table2", "table3", "table10", "figure4")
"""Of the paper's models of 300M parameters: there are none at 7b."""
TINY_LIMIT = 40
"""Items of each task at scale tiny, where no limit is given."""


def reproduce_one(name: str, request: Request) -> Reproduction:
    """Measures a table or figure, with what differs from the paper said.

    Raises:
        TurboSparseError: It can't be measured as requested.
        TrainingError: A training process failed.
    """
    result: Reproduction = import_module(f"turbosparse.reproduce.{name}").reproduce(request)
    return replace(result, differs=describe_difference(result, request))


def reproduce_all(request: Request, names: Sequence[str] = ALL) -> dict[str, Any]:
    """Measures and writes tables and figures at one scale, then index.html, index.md and all.json.

    What was trained for one is found in the root by the next. What has been written stays where a later
    one fails.

    Raises:
        TurboSparseError: One can't be measured as requested.
        TrainingError: A training process failed.
    """
    request, started = _with_defaults(request), time.monotonic()
    results: dict[str, Reproduction] = {}
    report: dict[str, Any] = {}
    for number, name in enumerate(names):
        request.listener.on_progress(Progress("reproduce", number, len(names), "of all", {}))
        why = why_not(name, request)
        if why is not None:
            report[name] = {"measured": False, "why": why}
            continue
        begun = time.monotonic()
        results[name] = reproduce_one(name, request)
        files = [path.name for path in write_reproduction(results[name], request.out)]
        report[name] = {"measured": True, "seconds": round(time.monotonic() - begun, 1), "files": files}
    request.listener.on_progress(Progress("reproduce", len(names), len(names), "of all", {}))
    seconds = round(time.monotonic() - started, 1)
    summary = {
        "scale": request.scale,
        "seconds": seconds,
        "hardware": describe_hardware(),
        "reproductions": report,
    }
    return summary | {"index": [path.name for path in write_index(summary, results, request.out)]}


def why_not(name: str, request: Request) -> str | None:
    """Returns why something can't be had at the request's scale; None where it can."""
    if name in STUDY and request.scale == "7b" and not (name == "table3" and request.models):
        return "the paper's study is of 300M parameters: scale 300m or tiny"
    return None


def write_index(summary: dict[str, Any], results: dict[str, Reproduction], folder: Path) -> list[Path]:
    """Writes index.html with everything in it, index.md with links, and all.json; returns them."""
    as_page, as_markdown, as_json = (folder / name for name in ("index.html", "index.md", "all.json"))
    title = f"The paper's tables and figures at scale {summary['scale']}"
    lead = f"{summary['seconds'] / 60:.1f} minutes; {summary['hardware']}."
    missing = {name: found["why"] for name, found in summary["reproductions"].items() if "why" in found}
    sections = [_section(result, summary["reproductions"][name]) for name, result in results.items()]
    if missing:
        sections.append(
            Section("Not at this scale", [Notes([f"{name}: {why}." for name, why in missing.items()])])
        )
    write_page(Page(title, lead, sections), as_page)
    lines = [f"- [{result.title}]({name}.md)" for name, result in results.items()]
    lines += [f"- {name}: not measured: {why}" for name, why in missing.items()]
    as_markdown.write_text("\n".join([f"# {title}", "", lead, "", *lines, ""]), encoding="utf-8")
    as_json.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [as_page, as_markdown, as_json]


def _section(result: Reproduction, written: dict[str, Any]) -> Section:
    blocks: list[Block] = [Table(result.header, result.rows)]
    blocks += [Picture(path.read_bytes(), f"{result.title}: {path.stem}") for path in result.plots]
    blocks += [Notes(result.notes), Text(f"What differs. {result.differs}")]
    return Section(result.title, [*blocks, Links({name: name for name in written["files"]})])


def _with_defaults(request: Request) -> Request:
    if request.scale != "tiny":
        return request
    # Without items of the paper's tasks, what can be asked of held-back text is.
    tasks = request.tasks or (() if request.data else LOCAL_TASKS)
    return replace(request, tasks=tasks, limit=request.limit or TINY_LIMIT)
