"""`reproduce`: the paper's tables and figures as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from turbosparse.cli.common import (
    ConfigOption,
    CorporaOption,
    JsonOption,
    RanksOption,
    RootOption,
    SetOption,
    SourceOption,
    TokenizerOption,
    WorkersOption,
    console,
    finish,
    shown_progress,
)
from turbosparse.config import Placement, read_overrides, validate

if TYPE_CHECKING:
    from turbosparse.reproduce.common import Request

app = typer.Typer()

Name = Literal[
    "all",
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "table10",
    "table12",
    "table13",
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
            help="Table or figure, or all of them; activated: activated parameters; recovery: a real model "
            "recovered."
        ),
    ],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Model folder, or LABEL=DIR; may be repeated.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file, or JSONL with a text field.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder of the tasks.")] = None,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated tasks, for figure5 and tables 6, 10, 13; none: the paper's.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens to measure at the most.")] = 65_536,
    scale: Annotated[
        Literal["tiny", "300m", "7b"],
        typer.Option(help="What is prepared and trained here where no --model is given."),
    ] = "tiny",
    dry: Annotated[bool, typer.Option("--dry-run", help="Apply the scale's dry_run block.")] = False,
    source: SourceOption = None,
    moe_source: Annotated[
        str | None, typer.Option(help="Hugging Face folder of the SwiGLU mixture of experts.")
    ] = None,
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
    from turbosparse.reproduce.common import Request  # noqa: PLC0415 - transformers takes seconds

    placement = {
        "root": root,
        "source": source,
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
            moe_source=moe_source,
            listener=listener,
        )
        report, files = _reproduce(name, request)
    console.print("\n".join(str(out / name) for name in files))
    finish(report, as_json)


def _reproduce(name: Name, request: "Request") -> tuple[dict[str, Any], list[str]]:
    """Returns what was measured, and the names of the files that hold it."""
    from turbosparse.reproduce.common import as_record, write_reproduction  # noqa: PLC0415
    from turbosparse.reproduce.everything import reproduce_all, reproduce_one  # noqa: PLC0415

    if name == "all":
        summary = reproduce_all(request)
        return {"name": name, **summary}, summary["index"]
    result = reproduce_one(name, request)
    return as_record(result), [path.name for path in write_reproduction(result, request.out)]
