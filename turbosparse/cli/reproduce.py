"""`reproduce`: the paper's tables and figures as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from turbosparse.cli.common import (
    ConfigOption,
    CorporaOption,
    JsonOption,
    RanksOption,
    RootOption,
    SetOption,
    TokenizerOption,
    WorkersOption,
    console,
    finish,
)
from turbosparse.config import Placement, read_overrides, validate
from turbosparse.progress import Listener, Progress

app = typer.Typer()

Name = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table10",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "figure7",
    "activated",
    "recovery",
]


@app.command()
def reproduce(
    name: Annotated[
        Name,
        typer.Argument(
            help="Table or figure; activated: activated parameters; recovery: a real model recovered."
        ),
    ],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Model folder, or LABEL=DIR; may be repeated.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file, or JSONL with a text field.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder of the tasks.")] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks, for figure5 and table10.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens to measure at the most.")] = 65_536,
    scale: Annotated[
        Literal["tiny", "300m", "7b"],
        typer.Option(help="What table2, figure4 and table10 train, and table4 prepares (7b: table4 only)."),
    ] = "tiny",
    dry: Annotated[bool, typer.Option("--dry-run", help="Apply the scale's dry_run block.")] = False,
    assignments: SetOption = None,
    config: ConfigOption = None,
    corpora: CorporaOption = None,
    tokenizer: TokenizerOption = None,
    num_ranks: RanksOption = 1,
    num_workers: WorkersOption = 1,
    root: RootOption = "./runs",
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("reproduce"),
    as_json: JsonOption = False,
) -> None:
    """Measure a table or figure of the paper; write it as JSON, Markdown, PNG and CSV."""
    from turbosparse.reproduce.common import (  # noqa: PLC0415 - transformers takes seconds
        Request,
        as_record,
        write_reproduction,
    )

    placement = {
        "root": root,
        "corpora": corpora,
        "tokenizer": tokenizer,
        "num_ranks": num_ranks,
        "num_workers": num_workers,
    }
    with _shown_progress() as listener:
        request = Request(
            out=out,
            models=models or [],
            text=text,
            num_tokens=num_tokens,
            tasks=[task for task in tasks.split(",") if task],
            data=data,
            limit=limit,
            scale=scale,
            dry_run=dry,
            overrides=read_overrides(config, assignments or []),
            placement=validate(Placement, placement, source="the command line"),
            listener=listener,
        )
        result = import_module(f"turbosparse.reproduce.{name}").reproduce(request)
    files = write_reproduction(result, out)
    console.print("\n".join(str(path) for path in files))
    finish(as_record(result), as_json)


@contextmanager
def _shown_progress() -> Iterator[Listener]:
    """Gives a listener whose progress shows as one bar per stage."""
    columns = (
        TextColumn("{task.description}", table_column=Column(min_width=16)),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[figures]}"),
    )
    bars: dict[str, TaskID] = {}
    with RichProgress(*columns, console=console) as shown:

        def show(progress: Progress) -> None:
            if progress.stage not in bars:
                bars[progress.stage] = shown.add_task(progress.stage, figures="")
            bar, figures = bars[progress.stage], _figures(progress)
            shown.update(bar, completed=progress.completed, total=progress.total, figures=figures)

        yield Listener(on_progress=show)


def _figures(progress: Progress) -> str:
    counted = f"{progress.completed:,}/{progress.total:,} {progress.unit}"
    return ", ".join([counted, *(f"{name} {value:.4g}" for name, value in progress.values.items())])
