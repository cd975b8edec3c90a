"""`verify`, `show` and `store`: what the artifact root holds."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.tree import Tree

from turbosparse.artifacts import Artifact, Manifest, Store
from turbosparse.artifacts.garbage import delete, find_garbage
from turbosparse.artifacts.opening import open_artifact
from turbosparse.cli.common import JsonOption, RootOption, console, finish
from turbosparse.promotion import Champions, champions_artifacts
from turbosparse.promotion.lease import check_free

app = typer.Typer()
store_app = typer.Typer(no_args_is_help=True, help="What the artifact root holds.")
app.add_typer(store_app, name="store")


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="<root>/<kind>/<identity>.")], as_json: JsonOption = False
) -> None:
    """Read an artifact again: every file against its digest, a corpus's shards sequence by sequence."""
    artifact = open_artifact(uri)
    artifact.folder()
    num_bytes = _num_bytes(artifact.manifest)
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
    artifact = open_artifact(uri)
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
    """List committed artifacts, oldest first, and which of them champions are."""
    store = Store(root)
    standing = Champions(store.root).standing()
    marks = {promotion.champion: f"was champion {promotion.number}" for promotion in standing}
    marks |= {promotion.champion: f"champion {promotion.number}" for promotion in standing[-1:]}
    table = Table("artifact", "made", "seconds", "bytes", "")
    rows = []
    for manifest in store.manifests():
        size, mark = _num_bytes(manifest), marks.get(manifest.name)
        row = {"name": manifest.name, "created_at": manifest.created_at, "num_bytes": size, "champion": mark}
        rows.append(row)
        made = manifest.created_at[:19]
        table.add_row(manifest.name, made, f"{manifest.seconds:.1f}", f"{size:,}", mark)
    Console().print(table)
    finish({"artifacts": rows}, as_json)


@store_app.command("gc")
def store_gc(
    root: RootOption = "./runs",
    state: Annotated[
        bool, typer.Option("--state", help="Also checkpoints of runs that never ended.")
    ] = False,
    older_than_days: Annotated[
        float | None,
        typer.Option(help="Also artifacts of this age that nothing younger and no champion was made from."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="URI of an artifact that stays, and all it was made from.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted of these.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete attempts that failed and, where an age is given, artifacts that nothing kept was made from."""
    store = Store(root)
    garbage = []
    if older_than_days is not None:
        check_free(store.root)
        kept = champions_artifacts(store.root) + [store.load(uri).manifest.name for uri in keep or []]
        garbage = find_garbage(store, kept, timedelta(days=older_than_days))
    if not dry:
        delete(store, garbage)
    removed = [] if dry else store.remove_unfinished(with_state=state)
    num_bytes = sum(map(_num_bytes, garbage))
    names = [manifest.name for manifest in garbage] + removed
    console.print("\n".join(names) or "nothing to delete")
    finish({"removed": names, "num_bytes": num_bytes, "is_dry_run": dry}, as_json)


def _num_bytes(manifest: Manifest) -> int:
    return sum(record.size_bytes for record in manifest.files.values())
