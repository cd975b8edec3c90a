"""Prefect on one machine: a server, a worker and the deployments, all of which end with this process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from filelock import FileLock, Timeout

from tasks.server import RUN_SETTINGS, SECONDS_TO_END_RUNS, STARTUP_TIMEOUT_SECONDS, wait_until_healthy
from turbosparse.errors import ConfigError
from turbosparse.processes import (
    adopt_orphans,
    bound_to_this,
    descendants,
    end_tree,
    kill_each,
    signal_each,
)

CHECKOUT = Path(__file__).resolve().parents[1]
POOL = "local"
HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class Service:
    """What is to be served, and where."""

    home: Path
    """Prefect's database, settings and logs."""
    root: str
    """Artifact root of the deployments: an absolute path or a URI."""
    port: int
    num_runs: int
    """Flow runs that go on at the same time."""

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the server, the worker and the flow runs."""
        own = {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "TURBOSPARSE_ROOT": self.root,
            "TURBOSPARSE_CHECKOUT": str(CHECKOUT),
        }
        return os.environ | RUN_SETTINGS | own


@contextmanager
def serving(service: Service, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Runs everything inside the block; gives a function that waits until something ends by itself.

    Runs that go on when the block ends are told to stop: training writes a checkpoint, and the run
    can be retried.

    Raises:
        ConfigError: The port or the home is taken, or this is no checkout of the repository.
        RuntimeError: Something did not start, or ended by itself; the message names its log.
    """
    _check(service)
    adopt_orphans()
    with _alone_in(service.home), ExitStack() as stack:
        # Last: also those whose parent ended before them.
        stack.callback(lambda: kill_each(descendants()))
        server = stack.enter_context(_program(service, "server", _server_command(service), _end))
        wait_until_healthy(server, f"{service.url}/api", _log(service, "server"))
        say("server: ready")
        worker = stack.enter_context(_program(service, "worker", _worker_command(service), _end_worker))
        _wait_for_pool(service, worker)
        say("worker: ready")
        _deploy(service)
        say("deployments: ready")
        yield lambda: _wait_for_any(service, {"server": server, "worker": worker})


def _check(service: Service) -> None:
    if not (CHECKOUT / "prefect.yaml").exists():
        remedy = "run from a clone of the repository"
        raise ConfigError("prefect.yaml", str(CHECKOUT), "a checkout with the deployments in it", remedy)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, service.port))
        except OSError as error:
            expected = f"a free port ({error.strerror})"
            raise ConfigError("--port", service.port, expected, "give another one") from error


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "serve.lock", timeout=0):
            yield
    except Timeout as error:
        remedy = "stop the other `turbosparse serve`, or give another --home"
        raise ConfigError("--home", str(home), "a folder that nobody else serves from", remedy) from error


def _server_command(service: Service) -> list[str]:
    options = ["--host", HOST, "--port", str(service.port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", *options]


def _worker_command(service: Service) -> list[str]:
    options = ["--pool", POOL, "--type", "process", "--limit", str(service.num_runs)]
    return [sys.executable, "-m", "prefect", "worker", "start", *options]


@contextmanager
def _program(
    service: Service, name: str, command: list[str], end: Callable[[int], None]
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program inside the block. A terminal's Ctrl-C does not reach it: it is ended in its turn."""
    with _log(service, name).open("ab") as log:
        process = subprocess.Popen(
            bound_to_this(command),
            env=service.environment,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process.pid)
        process.wait()


def _end(pid: int) -> None:
    end_tree(pid, SECONDS_TO_END)


def _end_worker(pid: int) -> None:
    """Ends flow runs first, while there is a worker to report how they ended, and a server to hear it."""
    with suppress(psutil.NoSuchProcess):
        runs = psutil.Process(pid).children()
        signal_each(runs, signal.SIGTERM)
        psutil.wait_procs(runs, timeout=SECONDS_TO_END_RUNS)
    _end(pid)


def _wait_for_pool(service: Service, worker: subprocess.Popen[bytes]) -> None:
    """Returns once the worker has made its pool, which deployments refer to."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    with httpx.Client(timeout=30) as client:
        while worker.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get(f"{service.url}/api/work_pools/{POOL}").is_success:
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)
    raise RuntimeError(f"the worker did not start; its log: {_log(service, 'worker')}")


def _deploy(service: Service) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    _run(service, "deploy", [*prefect, "deploy", "--name", POOL])
    _run(service, "automations", [sys.executable, "-m", "tasks.automations"])


def _run(service: Service, name: str, command: list[str]) -> None:
    with _log(service, name).open("wb") as log:
        status = subprocess.run(
            bound_to_this(command),
            env=service.environment,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status != 0:
        raise RuntimeError(f"{name} ended with status {status}; its log: {_log(service, name)}")


def _wait_for_any(service: Service, programs: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        for name, program in programs.items():
            if program.poll() is not None:
                log = _log(service, name)
                raise RuntimeError(f"the {name} ended with status {program.returncode}; its log: {log}")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _log(service: Service, name: str) -> Path:
    return service.home / f"{name}.log"
