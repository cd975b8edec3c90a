"""`reproduce`: the paper's tables and figures as files."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from turbosparse.cli.common import JsonOption, console, finish

app = typer.Typer()

Name = Literal["table1", "table3", "figure3", "figure5", "figure6", "figure7", "activated"]


@app.command()
def reproduce(
    name: Annotated[Name, typer.Argument(help="Table or figure; activated: activated parameters.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Model folder, or LABEL=DIR; may be repeated.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file, or JSONL with a text field.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder of the tasks.")] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks, for figure5.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens to measure at the most.")] = 65_536,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("reproduce"),
    as_json: JsonOption = False,
) -> None:
    """Measure a table or figure of the paper; write it as JSON, Markdown and PNG."""
    from turbosparse.reproduce.common import (  # noqa: PLC0415 - transformers takes seconds
        Request,
        as_record,
        write_reproduction,
    )

    request = Request(
        out=out,
        models=models or [],
        text=text,
        num_tokens=num_tokens,
        tasks=[task for task in tasks.split(",") if task],
        data=data,
        limit=limit,
    )
    result = import_module(f"turbosparse.reproduce.{name}").reproduce(request)
    files = write_reproduction(result, out)
    console.print("\n".join(str(path) for path in files))
    finish(as_record(result), as_json)
