"""W&B's key is tried before anything is launched."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from turbosparse.config import WandbConfig
from turbosparse.train.credentials import check_wandb

KEY = "canary0key0" + "7" * 29

# W&B keeps what it learns about a key for the life of a process: each case has one of its own.
CHECK = """
from turbosparse.config import WandbConfig
from turbosparse.errors import ConfigError
from turbosparse.train.credentials import check_wandb

try:
    check_wandb(WandbConfig(project="tests"))
except ConfigError as error:
    print(error)
    raise SystemExit(2)
"""


class _Server(BaseHTTPRequestHandler):
    """Answers W&B's question who somebody is, if the key is the right one."""

    accepted: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_known = any(key in self._credentials() for key in self.accepted)
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        viewer = {"id": "1", "username": "tester", "entity": "tester", "flags": "{}", "teams": {"edges": []}}
        self.wfile.write(json.dumps({"data": {"viewer": viewer}} if is_known else {"errors": []}).encode())

    def _credentials(self) -> str:
        import base64  # noqa: PLC0415

        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(value).decode() if kind == "Basic" else value

    def log_message(self, *arguments) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def check(server: str, tmp_path, key: str | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WANDB_BASE_URL": server}
    environment |= {"WANDB_API_KEY": key} if key else {}
    command = [sys.executable, "-c", CHECK]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_a_wrong_key_is_refused_and_never_shown(server, tmp_path):
    ended = check(server, tmp_path, KEY)
    assert ended.returncode == 2, ended.stderr
    assert "WANDB_API_KEY: 'refused'" in ended.stdout
    assert "training.wandb.mode: offline" in ended.stdout
    assert KEY not in ended.stdout + ended.stderr


def test_a_right_key_is_taken_and_not_stored(server, tmp_path):
    _Server.accepted.add(KEY)
    ended = check(server, tmp_path, KEY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_missing_key_is_asked_for(server, tmp_path):
    ended = check(server, tmp_path, None)
    assert ended.returncode == 2, ended.stderr
    assert "WANDB_API_KEY: None" in ended.stdout


def test_offline_tracking_needs_no_key(monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    check_wandb(WandbConfig(project="tests", mode="offline"))
