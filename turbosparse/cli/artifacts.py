"""`verify`, `show` and `store`: what the artifact root holds."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.tree import Tree

from turbosparse.artifacts import Artifact, Store
from turbosparse.cli.common import JsonOption, RootOption, console, finish
from turbosparse.errors import DataError

app = typer.Typer()
store_app = typer.Typer(no_args_is_help=True, help="What the artifact root holds.")
app.add_typer(store_app, name="store")


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
    finish(report, as_json)


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
        if manifest.components:
            branch.add(f"over {len(manifest.components)} {manifest.components[0].split('/')[0]} artifacts")
        branches.append(branch)
    Console().print(branches[0])
    Console().print_json(artifact.manifest.model_dump_json(exclude={"files"}))
    finish(
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
    finish({"artifacts": rows}, as_json)


@store_app.command("gc")
def store_gc(
    root: RootOption = "./runs",
    state: Annotated[
        bool, typer.Option("--state", help="Also checkpoints of runs that never ended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete what no manifest commits: attempts that failed."""
    removed = Store(root).remove_unfinished(with_state=state)
    console.print("\n".join(removed) or "nothing to delete")
    finish({"removed": removed}, as_json)


def _open_artifact(uri: str) -> Artifact:
    root, _, _ = uri.rstrip("/").rpartition("/")
    root, _, kind = root.rpartition("/")
    if not root or not kind:
        raise DataError("uri", uri, "<root>/<kind>/<identity>", "see turbosparse store ls")
    return Store(root).load(uri)
