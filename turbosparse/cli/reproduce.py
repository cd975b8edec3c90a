"""`reproduce`: the paper's tables and figures as files."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

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
    shown_progress,
)
from turbosparse.config import Placement, read_overrides, validate

app = typer.Typer()

Name = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table7",
    "table8",
    "table10",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "figure7",
    "activated",
    "recovery",
    "predictors",
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
    with shown_progress() as listener:
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
