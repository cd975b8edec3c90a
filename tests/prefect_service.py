"""`turbosparse serve` for tests: a whole Prefect on this machine, spoken to through its API."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

TURBOSPARSE = str(Path(sys.executable).with_name("turbosparse"))
SECONDS_TO_START = 600.0
SECONDS_TO_END = 90.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Served:
    """A running `turbosparse serve`."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str
    seconds_to_start: float

    @property
    def root(self) -> Path:
        """The deployments' artifact root."""
        return self.folder / "runs"

    def request(self, method: str, path: str, **content: Any) -> Any:
        """Returns the API's answer, as Prefect's own client asks: again where the database is busy."""
        for _ in range(60):
            answer = httpx.request(method, f"{self.url}/api{path}", timeout=60, **content)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        """Reads."""
        return self.request("GET", path)

    def post(self, path: str, **content: Any) -> Any:
        """Writes, or searches."""
        return self.request("POST", path, json=content)

    def deployment(self, flow: str) -> dict[str, Any]:
        """Returns the deployment of a flow on this machine."""
        return self.get(f"/deployments/name/{flow}/local")

    def start(self, flow: str, **parameters: Any) -> str:
        """Starts a run with some of the form's fields changed; returns its id."""
        deployment = self.deployment(flow)
        given = deployment["parameters"] | parameters
        return self.post(f"/deployments/{deployment['id']}/create_flow_run", parameters=given)["id"]

    def wait(self, run: str, seconds: float = 900.0, *types: str) -> dict[str, Any]:
        """Returns the run once its state is of one of the types: by default when it has ended."""

        def found() -> dict[str, Any] | None:
            current = self.get(f"/flow_runs/{run}")
            return current if current["state_type"] in (types or FINAL) else None

        return wait_for(found, seconds)

    def set_state(self, run: str, type_: str, name: str) -> None:
        """Asks for a state, as the buttons of the UI do."""
        answer = self.post(f"/flow_runs/{run}/set_state", state={"type": type_, "name": name})
        assert answer["status"] == "ACCEPT", answer

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        """Returns a run's artifacts, and those of its stages' runs."""
        wanted = {"any_": [run, *self.stage_runs(run)]}
        return self.post("/artifacts/filter", artifacts={"flow_run_id": wanted}, limit=200)

    def stage_runs(self, run: str) -> list[str]:
        """Returns the runs that a pipeline's run made of its stages."""
        found = self.post("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run]}})
        return [stage["id"] for stage in found]

    def logs(self, run: str) -> list[str]:
        """Returns what a run has logged, its stages' runs included."""
        wanted, lines = {"flow_run_id": {"any_": [run, *self.stage_runs(run)]}}, []
        while page := self.post("/logs/filter", logs=wanted, limit=200, offset=len(lines)):
            lines += [line["message"] for line in page]
        return lines

    def processes(self) -> list[psutil.Process]:
        """Returns what lives of it: everything that it starts inherits its root."""
        return [process for process in psutil.process_iter() if _root_of(process) == str(self.root)]


@contextmanager
def serve(folder: Path, **environment: str) -> Iterator[Served]:
    """Runs `turbosparse serve` inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    started, output = time.monotonic(), folder / "serve.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [TURBOSPARSE, "serve", "--root", str(folder / "runs"), "--port", str(port)],
            env=inherited | environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or "Open" in output.read_text(), SECONDS_TO_START)
        assert process.poll() is None, output.read_text()
        yield Served(process, folder, f"http://127.0.0.1:{port}", time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS_TO_END)


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """Returns what is waited for, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.3)
    return found


def _root_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("TURBOSPARSE_ROOT")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
