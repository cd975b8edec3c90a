"""What the commands share: options, the table's console, the JSON line at the end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from turbosparse.progress import Listener, Progress

console = Console(stderr=True)

PresetOption = Annotated[str, typer.Option(help="tiny, tiny-moe, 300m, mistral-7b or mixtral-8x7b.")]
RootOption = Annotated[str, typer.Option(help="Artifact root: a folder or an fsspec URI.")]
SourceOption = Annotated[str | None, typer.Option(help="Hugging Face folder of the SwiGLU model.")]
CorporaOption = Annotated[str | None, typer.Option(help="Folder or URI of JSONL or Parquet files.")]
EvaluationDataOption = Annotated[
    str | None, typer.Option(help="Folder of evaluation sets that the corpora must not contain.")
]
WorkersOption = Annotated[int, typer.Option("--num-workers", help="Groups of documents prepared at once.")]
WorkerKindOption = Annotated[str, typer.Option("--workers", help="threads, processes or dask.")]
DaskOption = Annotated[str | None, typer.Option(help="Address of a Dask scheduler; none: a local cluster.")]
TokenizerOption = Annotated[str | None, typer.Option(help="Hugging Face tokenizer folder.")]
InstructionsOption = Annotated[str | None, typer.Option(help="File or folder of instruction rows.")]
RanksOption = Annotated[int, typer.Option(help="Training processes on this machine.")]
MaxGpuHoursOption = Annotated[
    float | None, typer.Option(help="A run that is planned to take more does not start; none: no limit.")
]
PeakOption = Annotated[float, typer.Option(help="A GPU's dense bf16 peak, 10^12 FLOP/s, in planned hours.")]
MfuOption = Annotated[float, typer.Option(help="Share of that peak reached (MFU), in planned hours.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=c.")]
PlaceOption = Annotated[
    list[str] | None, typer.Option("--place", help="Where it runs, field by field: training.compile=true.")
]
PlacementOption = Annotated[str | None, typer.Option("--placement", help="YAML file of where it runs.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="YAML file of overrides.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def finish(report: dict[str, Any], as_json: bool) -> None:
    """Prints the report as the last line of standard output, if it was asked for."""
    if as_json:
        print(json.dumps(report, separators=(",", ":"), allow_nan=False), flush=True)


@contextmanager
def shown_progress() -> Iterator[Listener]:
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
