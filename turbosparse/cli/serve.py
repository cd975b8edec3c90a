"""`serve`: Prefect on this machine, with the deployments; `automations`: those of a server elsewhere."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from turbosparse.artifacts import Store
from turbosparse.cli.common import RootOption, console
from turbosparse.errors import ConfigError

app = typer.Typer()

HomeOption = Annotated[
    Path | None, typer.Option(help="Prefect's database, settings and logs; none: ROOT/.prefect.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65_535, help="Port of the server and its pages.")]
RunsOption = Annotated[int, typer.Option(min=1, help="Flow runs that go on at the same time.")]


@app.command()
def serve(
    root: RootOption = "./runs", port: PortOption = 4200, home: HomeOption = None, num_runs: RunsOption = 1
) -> None:
    """Run Prefect's server, a worker and the deployments here, until Ctrl-C.

    Runs that go on then write a checkpoint, end as Crashed, and can be retried.
    """
    from tasks.service import Service, serving  # noqa: PLC0415 - not every command needs Prefect

    store = Store(root)
    store.check_writable()
    local = store.local_root
    place = (home or (local or Path("runs")) / ".prefect").resolve()
    service = Service(place, str(local.resolve()) if local else store.root, port, num_runs)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with serving(service, console.print) as wait:
            console.print(f"Open [bold]{service.url}[/bold] · logs in {place} · Ctrl-C ends everything")
            wait()
    except KeyboardInterrupt:
        console.print("ended")


@app.command()
def automations() -> None:
    """Make or update the automations of infra/automations on the server at PREFECT_API_URL."""
    if "PREFECT_API_URL" not in os.environ:
        remedy = "set it; `turbosparse serve` makes its server's automations itself"
        raise ConfigError("PREFECT_API_URL", None, "the address of a Prefect server", remedy)
    from tasks.automations import WEBHOOK_VARIABLE, install_automations  # noqa: PLC0415 - see serve

    for name, is_there in install_automations().items():
        console.print(f"{name}: {'ready' if is_there else f'left out, as {WEBHOOK_VARIABLE} is not set'}")
