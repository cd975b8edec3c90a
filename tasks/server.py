"""A Prefect API for one run, where no server is given: it starts here and ends with this process.

Prefect starts such a server by itself, but one that outlives a killed run; this one does not.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from turbosparse.processes import die_with_parent

STARTUP_TIMEOUT_SECONDS = 180.0
SHUTDOWN_TIMEOUT_SECONDS = 10.0


@contextmanager
def prefect_api(home: Path) -> Iterator[None]:
    """Sets PREFECT_API_URL inside the block: as it is, else to a server with its database in `home`.

    Raises:
        RuntimeError: The server did not start; its log lies in `home`.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home))
    port = _free_port()
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "tasks.server", str(port)],
            env=os.environ | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_healthy(server, url, log)
        os.environ["PREFECT_API_URL"] = url
        yield
        _send_last_logs()
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        _end(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"Prefect's server did not start; its log: {log}")


def _send_last_logs() -> None:
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
