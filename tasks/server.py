"""A Prefect API for one run, where no server is given: it starts here and ends with this process.

Prefect starts such a server by itself, but one that outlives a killed run; this one does not.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from turbosparse.processes import die_with_parent

STARTUP_TIMEOUT_SECONDS = 300.0
SHUTDOWN_TIMEOUT_SECONDS = 10.0
SECONDS_TO_END_RUNS = 40.0
"""What a flow run that is told to stop has: ranks take up to 20 for a checkpoint, their launcher 6 more."""
RUN_SETTINGS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_CLIENT_MAX_RETRIES": "8"}
"""Every run says every 30 seconds that it lives, which infra/automations/zombies.yaml listens to, and waits
eight and a half minutes for a server that restarts."""


@contextmanager
def prefect_api(home: Path) -> Iterator[Callable[[], None]]:
    """Sets PREFECT_API_URL inside the block: as it is, else to a server with its database in `home`.

    Gives a function that waits until the API answers: the server takes 20 seconds to start, in which
    the caller can do something useful.

    Raises:
        RuntimeError: The server did not start; its log lies in `home`.
    """
    if "PREFECT_API_URL" in os.environ:
        for name, value in RUN_SETTINGS.items():
            os.environ.setdefault(name, value)
        yield lambda: None
        return
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home))
    port, log = _free_port(), home / "server.log"
    url = f"http://127.0.0.1:{port}/api"
    server = _start(port, log)
    os.environ["PREFECT_API_URL"] = url
    try:
        yield lambda: wait_until_healthy(server, url, log)
    finally:
        _send_last_logs()
        os.environ.pop("PREFECT_API_URL", None)
        _end(server)


def _start(port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.server", str(port)],
            env=environment | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns once the API at `url` answers.

    Raises:
        RuntimeError: The server ended, or did not answer in time.
    """
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    # One client: each costs 50 ms of CPU time, which the server needs.
    with httpx.Client(timeout=5) as client:
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get(f"{url}/health").is_success:
                    return
            time.sleep(0.2)
    raise RuntimeError(f"Prefect's server did not start; its log: {log}")


def _send_last_logs() -> None:
    if "prefect" not in sys.modules:
        return
    from prefect.logging.handlers import APILogHandler  # noqa: PLC0415 - after the environment is set

    APILogHandler().flush()


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(SHUTDOWN_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve(port: int) -> None:
    die_with_parent(signal.SIGKILL)
    import uvicorn  # noqa: PLC0415 - only after the kernel was told whom to follow
    from prefect.server.api.server import create_app  # noqa: PLC0415

    uvicorn.run(create_app(ephemeral=True, final=True), host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
