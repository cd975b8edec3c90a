"""`report`: a pipeline run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from turbosparse.cli.common import JsonOption, console, finish

app = typer.Typer()


@app.command()
def report(
    where: Annotated[
        str, typer.Argument(help="A root (its newest run), or the URI of a run's last artifact.")
    ],
    out: Annotated[Path, typer.Argument(help="HTML file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write a pipeline run as one HTML page: plots inside, no script, no network."""
    from turbosparse.reports.pipeline import write_pipeline_page  # noqa: PLC0415 - numpy takes a moment

    run = write_pipeline_page(where, out)
    console.print(str(out))
    finish({"artifact": run.uri, "report": str(out), "num_bytes": out.stat().st_size}, as_json)
