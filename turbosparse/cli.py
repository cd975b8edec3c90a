"""The command line: `turbosparse --help`. The outermost layer; only here may library code meet Prefect."""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.tree import Tree

from turbosparse.artifacts import Artifact, Store
from turbosparse.config import Placement, read_overrides, validate
from turbosparse.errors import DataError, TurboSparseError
from turbosparse.reproduce_cli import reproduce
from turbosparse.stages import open_run, preload, require_parents, stages_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
store_app = typer.Typer(no_args_is_help=True, help="What the artifact root holds.")
app.add_typer(store_app, name="store")
app.command()(reproduce)
console = Console(stderr=True)

FlowName = Literal["prepare", "convert", "pretrain", "finetune", "evaluate", "export", "pipeline"]

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
InstructionsOption = Annotated[str | None, typer.Option(help="JSONL file or folder of instruction rows.")]
RanksOption = Annotated[int, typer.Option(help="Training processes on this machine.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=c.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="YAML file of overrides.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


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
    root: RootOption = "./runs",
    dry: Annotated[bool, typer.Option("--dry-run", help="Apply the preset's dry_run block.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one flow: a stage (its parents must have run), or the whole pipeline."""
    placement = _placement(locals())
    overrides = read_overrides(config, assignments or [])
    _run_flow(flow, preset, overrides, dry=dry, placement=placement, as_json=as_json)


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="Hugging Face SwiGLU folder: Llama, Mistral or Mixtral.")],
    dst: Annotated[str, typer.Argument(help="Folder to write; new or empty.")],
    activation: Annotated[Literal["drelu", "swiglu"], typer.Option(help="Activation afterwards.")] = "drelu",
    as_json: JsonOption = False,
) -> None:
    """Make a SwiGLU model dReLU; every weight stays bit for bit."""
    from turbosparse.commands import convert_folder  # noqa: PLC0415 - transformers takes seconds

    _finish(convert_folder(src, Path(dst), activation), as_json)


@app.command()
def sparsity(
    model: Annotated[str, typer.Argument(help="Llama, Mistral, Mixtral, Qwen-MoE, DeepSeek-V2/V3 folder.")],
    text: Annotated[Path, typer.Option(help="Text file, or JSONL with a text field.")],
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens to measure at the most.")] = 65_536,
    plots: Annotated[Path | None, typer.Option(help="Folder for figures and activation counts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure zero activations by layer and expert, and the parameters that a token activates."""
    from turbosparse.commands import measure_folder  # noqa: PLC0415 - transformers takes seconds

    report = measure_folder(model, text, num_tokens, plots)
    table = Table("layer", "zero", "near zero", "hot neurons")
    rows = zip(report["layers"], report["near_zero_layers"], report["hot_neuron_layers"], strict=True)
    for layer, (zero, near_zero, hot) in enumerate(rows):
        table.add_row(str(layer), f"{zero:.2%}", f"{near_zero:.2%}", "–" if hot is None else f"{hot:.2%}")
    zero, near_zero = report["zero_activation_ratio"], report["near_zero_activation_ratio"]
    table.add_row("mean", f"{zero:.2%}", f"{near_zero:.2%}", "")
    console.print(table)
    parameters = report["activated_parameters"]
    console.print(", ".join(f"{name} {number:,}" for name, number in parameters.items()))
    _finish(report, as_json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Llama, Mistral, Mixtral or TurboSparse folder.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated lm-evaluation-harness tasks.")],
    data: Annotated[str | None, typer.Option(help="Folder with held_back.jsonl for the local tasks.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model with lm-evaluation-harness."""
    from turbosparse.commands import evaluate_folder  # noqa: PLC0415 - transformers takes seconds

    report = evaluate_folder(model, tasks.split(","), data, limit)
    table = Table("task", "items", "metric", "value")
    for task, metrics in report["results"].items():
        for metric, value in metrics.items():
            table.add_row(task, str(report["num_items"][task]), metric, f"{value:.4f}")
    console.print(table)
    _finish(report, as_json)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    mode: Annotated[Literal["dense", "exact", "predicted"], typer.Option(help="How FFNs decode.")] = "dense",
    num_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode at the most.")] = 64,
    chat: Annotated[bool, typer.Option(help="Wrap the prompt in the chat template.")] = False,
) -> None:
    """Decode greedily after a prompt; text comes as it is decoded, speed goes to standard error."""
    from turbosparse.commands import generate_text  # noqa: PLC0415 - transformers takes seconds

    generate_text(model, prompt, mode, num_tokens, chat)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    dst: Annotated[str, typer.Argument(help="Folder to write; new or empty.")],
    format: Annotated[Literal["hf"], typer.Option(help="hf: Hugging Face.")] = "hf",  # noqa: ARG001
    as_json: JsonOption = False,
) -> None:
    """Write a model folder for other engines, with its own modelling code."""
    from turbosparse.commands import export_folder  # noqa: PLC0415 - transformers takes seconds

    _finish(export_folder(model, Path(dst)), as_json)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="<root>/<kind>/<identity>.")], as_json: JsonOption = False
) -> None:
    """Read an artifact again: every file against its digest, a corpus's shards sequence by sequence."""
    artifact = _open_artifact(uri)
    artifact.folder()
    num_bytes = sum(record.size_bytes for record in artifact.manifest.files.values())
    report = {"uri": artifact.uri, "num_files": len(artifact.manifest.files), "num_bytes": num_bytes}
    console.print(f"{report['num_files']} files, {num_bytes:,} bytes: as committed")
    if artifact.manifest.kind == "prepare":
        report |= _verify_corpus(artifact)
    _finish(report, as_json)


def _verify_corpus(artifact: Artifact) -> dict[str, Any]:
    from turbosparse.data.verify import verify_corpus  # noqa: PLC0415 - streaming takes seconds

    with RichProgress(console=console) as bars:
        bar = bars.add_task("token groups")
        report = verify_corpus(
            artifact.store,
            artifact.manifest,
            lambda done, total: bars.update(bar, completed=done, total=total),
        )
    columns = ("num_sequences", "num_tokens", "num_documents", "num_duplicate_sequences")
    table = Table("source", "wanted", "drawn", *(name.removeprefix("num_") for name in columns), "sha256")
    for source, row in report["sources"].items():
        ratios = (f"{row['wanted_ratio']:.4%}", f"{row['drawn_ratio']:.4%}")
        table.add_row(source, *ratios, *(f"{row[name]:,}" for name in columns), row["sha256"][:12])
    console.print(table)
    return report


@app.command()
def show(
    uri: Annotated[str, typer.Argument(help="<root>/<kind>/<identity>.")], as_json: JsonOption = False
) -> None:
    """Print an artifact's manifest and its lineage, back to the corpora."""
    artifact = _open_artifact(uri)
    lineage = list(artifact.store.lineage(artifact.manifest))
    branches = [Tree(artifact.uri)]
    for depth, role, manifest in lineage:
        del branches[depth + 1 :]
        label = f"[bold]{role or 'this'}[/bold]: {manifest.name}  {manifest.created_at[:19]}"
        branch = branches[-1].add(label)
        for name, value in manifest.inputs.items():
            branch.add(f"{name}: {value[:16]}…")
        branches.append(branch)
    Console().print(branches[0])
    Console().print_json(artifact.manifest.model_dump_json(exclude={"files"}))
    _finish(
        {
            "manifest": artifact.manifest.model_dump(mode="json"),
            "lineage": [
                {"role": role, "depth": depth, "name": manifest.name} for depth, role, manifest in lineage
            ],
        },
        as_json,
    )


@store_app.command("ls")
def store_ls(root: RootOption = "./runs", as_json: JsonOption = False) -> None:
    """List committed artifacts, oldest first."""
    manifests = Store(root).manifests()
    table = Table("artifact", "made", "seconds", "bytes")
    rows = []
    for manifest in manifests:
        size = sum(record.size_bytes for record in manifest.files.values())
        rows.append({"name": manifest.name, "created_at": manifest.created_at, "num_bytes": size})
        table.add_row(manifest.name, manifest.created_at[:19], f"{manifest.seconds:.1f}", f"{size:,}")
    Console().print(table)
    _finish({"artifacts": rows}, as_json)


@store_app.command("gc")
def store_gc(root: RootOption = "./runs", as_json: JsonOption = False) -> None:
    """Delete what no manifest commits: attempts that failed, state of runs that never ended."""
    removed = Store(root).remove_unfinished()
    console.print("\n".join(removed) or "nothing to delete")
    _finish({"removed": removed}, as_json)


def main() -> None:
    """Runs the command line: 0 done, 2 bad input (nothing written), 1 anything else."""
    _quieten_libraries()
    try:
        app()
    except TurboSparseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _placement(options: dict[str, Any]) -> Placement:
    given = {name: options[name] for name in Placement.model_fields if name in options}
    return validate(Placement, given, source="the command line")


def _open_artifact(uri: str) -> Artifact:
    root, _, _ = uri.rstrip("/").rpartition("/")
    root, _, kind = root.rpartition("/")
    if not root or not kind:
        raise DataError("uri", uri, "<root>/<kind>/<identity>", "see turbosparse store ls")
    return Store(root).load(uri)


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
    from tasks.server import prefect_api  # noqa: PLC0415 - not every command needs Prefect

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
        outcome = flow(preset, overrides, dry, placement)
    results = outcome if isinstance(outcome, dict) else {name: outcome}
    made = {stage: result.model_dump(exclude={"stage", "plots"}) for stage, result in results.items()}
    seconds = round(time.monotonic() - started, 3)
    _print_stages(made)
    _finish({"preset": preset, "root": placement.root, "seconds": seconds, "stages": made}, as_json)


def _quieten_libraries() -> None:
    """Sets what libraries read when they are first imported; whatever the user has set stays."""
    settings = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "GOMP_SPINCOUNT": "2000",  # see turbosparse/train/launch/local.py
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _prefect_home(placement: Placement) -> Path:
    """Without a server, Prefect's database lies under the root, unless that is an object store."""
    root = Store(placement.root).local_root
    return (root or Path("runs")) / ".prefect"


def _print_stages(stages: dict[str, Any]) -> None:
    table = Table("stage", "seconds", "reused", "artifact")
    for name, stage in stages.items():
        table.add_row(name, f"{stage['seconds']:.1f}", "yes" if stage["reused"] else "no", stage["uri"])
    console.print(table)


def _finish(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, separators=(",", ":"), allow_nan=False), flush=True)
