"""`champion`: which model of a root is in use, who decided so, and the way back."""

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from turbosparse.artifacts import Store
from turbosparse.cli.common import JsonOption, RootOption, console, finish
from turbosparse.errors import ConfigError
from turbosparse.promotion import Champions, Promotion
from turbosparse.promotion.branch import branch_from

app = typer.Typer()
champion_app = typer.Typer(no_args_is_help=True, help="The model of a root that retraining goes on from.")
app.add_typer(champion_app, name="champion")


@champion_app.command()
def show(root: RootOption = "./runs", as_json: JsonOption = False) -> None:
    """Show every promotion, oldest first, and which one is in force."""
    champions = Champions(Store(root).root)
    current, standing = champions.current(), {found.number for found in champions.standing()}
    table = Table("", "number", Column("champion", no_wrap=True), "how", "promoted", "verdict")
    for promotion in champions.history():
        mark = "→" if promotion == current else "" if promotion.number in standing else "withdrawn"
        how = promotion.how if promotion.back_to is None else f"{promotion.how} to {promotion.back_to}"
        when, verdict = promotion.promoted_at[:19], promotion.verdict or "none"
        table.add_row(mark, str(promotion.number), promotion.champion, how, when, verdict)
    Console().print(table if current is not None else "no champion yet")
    history = [promotion.model_dump(mode="json") for promotion in champions.history()]
    finish({"champion": current and current.model_dump(mode="json"), "history": history}, as_json)


@champion_app.command()
def promote(
    uri: Annotated[str, typer.Argument(help="<root>/export/<identity>, which a pipeline made.")],
    root: RootOption = "./runs",
    as_json: JsonOption = False,
) -> None:
    """Make an exported model the champion, whatever the gate says."""
    store = Store(root)
    champions = Champions(store.root)
    after, name = champions.last_number(), store.load(uri).manifest.name
    branch_from(store, name)
    _report(champions.promote(name, "named", after), as_json)


@champion_app.command()
def rollback(
    to: Annotated[int | None, typer.Option(help="Number of the promotion; none: the one before.")] = None,
    root: RootOption = "./runs",
    as_json: JsonOption = False,
) -> None:
    """Make an earlier champion the champion again."""
    _report(Champions(Store(root).root).roll_back(to), as_json)


def _report(promotion: Promotion, as_json: bool) -> None:
    console.print(f"promotion {promotion.number}: {promotion.champion} is the champion")
    finish({"champion": promotion.model_dump(mode="json")}, as_json)


@app.command("announce-data")
def announce_data(corpora: Annotated[str, typer.Argument(help="Folder or URI that received text.")]) -> None:
    """Emit the event that a deployed retraining starts on; needs PREFECT_API_URL."""
    if "PREFECT_API_URL" not in os.environ:
        remedy = "set it to the server whose deployment is to start"
        raise ConfigError("PREFECT_API_URL", None, "the address of a Prefect server", remedy)
    from tasks.retraining import announce_new_data  # noqa: PLC0415 - Prefect takes seconds

    announce_new_data(corpora)
