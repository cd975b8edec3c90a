"""`dry-run` and `run`: the flows. Only here may library code meet Prefect."""

import logging
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from turbosparse.artifacts import Store
from turbosparse.cli.common import (
    ConfigOption,
    CorporaOption,
    DaskOption,
    EvaluationDataOption,
    InstructionsOption,
    JsonOption,
    MaxGpuHoursOption,
    MfuOption,
    PeakOption,
    PlacementOption,
    PlaceOption,
    PresetOption,
    RanksOption,
    RootOption,
    SetOption,
    SourceOption,
    TokenizerOption,
    WorkerKindOption,
    WorkersOption,
    console,
    finish,
)
from turbosparse.config import Placement, read_overrides, validate
from turbosparse.config.resolve import merge
from turbosparse.errors import ConfigError
from turbosparse.stages import open_run, preload, require_parents, stages_of

app = typer.Typer()

FlowName = Literal["prepare", "convert", "pretrain", "finetune", "evaluate", "export", "pipeline", "retrain"]


@app.command("dry-run")
def dry_run(
    preset: PresetOption = "300m",
    source: SourceOption = None,
    corpora: CorporaOption = None,
    tokenizer: TokenizerOption = None,
    instructions: InstructionsOption = None,
    num_ranks: RanksOption = 1,
    evaluation_data: EvaluationDataOption = None,
    num_workers: WorkersOption = 1,
    workers: WorkerKindOption = "processes",
    dask_scheduler: DaskOption = None,
    assignments: SetOption = None,
    config: ConfigOption = None,
    places: PlaceOption = None,
    placement_file: PlacementOption = None,
    root: RootOption = "./runs",
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline here: real text, no network, no server."""
    placement = _placement(locals())
    overrides = read_overrides(config, assignments or [])
    _run_flow("pipeline", preset, overrides, dry=True, placement=placement, as_json=as_json)


@app.command()
def run(
    flow: Annotated[FlowName, typer.Argument(help="Which flow.")],
    preset: PresetOption = "300m",
    source: SourceOption = None,
    corpora: CorporaOption = None,
    tokenizer: TokenizerOption = None,
    instructions: InstructionsOption = None,
    num_ranks: RanksOption = 1,
    evaluation_data: EvaluationDataOption = None,
    num_workers: WorkersOption = 1,
    workers: WorkerKindOption = "processes",
    dask_scheduler: DaskOption = None,
    assignments: SetOption = None,
    config: ConfigOption = None,
    places: PlaceOption = None,
    placement_file: PlacementOption = None,
    root: RootOption = "./runs",
    max_gpu_hours: MaxGpuHoursOption = None,
    gpu_peak_teraflops: PeakOption = 312.0,
    expected_mfu_ratio: MfuOption = 0.45,
    dry: Annotated[bool, typer.Option("--dry-run", help="Apply the preset's dry_run block.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one flow: a stage (its parents must have run), or the whole pipeline."""
    placement = _placement(locals())
    overrides = read_overrides(config, assignments or [])
    _run_flow(flow, preset, overrides, dry=dry, placement=placement, as_json=as_json)


def _placement(options: dict[str, Any]) -> Placement:
    """Returns the placement: the options' values, over them the file's, over them `--place`'s."""
    given = {name: options[name] for name in Placement.model_fields if name in options}
    placed = read_overrides(options["placement_file"], options["places"] or [])
    return validate(Placement, merge(given, placed), source="the command line")


def _run_flow(
    name: FlowName,
    preset: str,
    overrides: dict[str, Any],
    *,
    dry: bool,
    placement: Placement,
    as_json: bool,
) -> None:
    started = time.monotonic()
    import httpx  # noqa: PLC0415 - not every command needs Prefect

    from tasks.server import prefect_api  # noqa: PLC0415 - likewise

    if placement.access.names_blocks:
        _read_blocks(placement)
    # Everything that can be wrong with the request is found here, before Prefect starts.
    request = open_run(preset, overrides, dry, placement)
    stages = stages_of(request, name)
    require_parents(request, stages)
    for note in request.notes:
        console.print(f"[yellow]changed to fit:[/yellow] {note}")
    with prefect_api(_prefect_home(placement)) as wait_until_ready:
        flow = getattr(import_module(f"flows.{name}"), name)
        preload(request, stages)
        wait_until_ready()
        try:
            outcome = flow(preset, overrides, dry, placement)
        except httpx.TransportError as error:
            said = f"error: Prefect's server does not answer ({error!r}): what is finished is kept, run again"
            # It goes on trying to send its events for a while: what to do would scroll away.
            logging.getLogger("prefect").setLevel(logging.CRITICAL)
            console.print(said, markup=False)
            raise typer.Exit(1) from error
    results = outcome if isinstance(outcome, dict) else {name: outcome}
    made = {
        stage: result.model_dump(exclude={"stage", "plots", "reports"}) for stage, result in results.items()
    }
    seconds = round(time.monotonic() - started, 3)
    _print_stages(made)
    finish({"preset": preset, "root": placement.root, "seconds": seconds, "stages": made}, as_json)


def _read_blocks(placement: Placement) -> None:
    if "PREFECT_API_URL" not in os.environ:
        remedy = "set PREFECT_API_URL, or give credentials by the environment instead"
        raise ConfigError("placement.access", "names blocks", "a Prefect server that has them", remedy)
    from tasks.credentials import use_access  # noqa: PLC0415 - not every command needs Prefect

    use_access(placement.access)


def _prefect_home(placement: Placement) -> Path:
    """Without a server, Prefect's database lies under the root, unless that is an object store."""
    root = Store(placement.root).local_root
    return (root or Path("runs")) / ".prefect"


def _print_stages(stages: dict[str, Any]) -> None:
    table = Table("stage", "seconds", "reused", "artifact")
    for name, stage in stages.items():
        table.add_row(name, f"{stage['seconds']:.1f}", "yes" if stage["reused"] else "no", stage["uri"])
    console.print(table)
