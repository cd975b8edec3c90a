"""What the product is built of: the bill names it, the audit tells a finding from an unreachable database."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADVISORY = "GHSA-0000-0000-0000"

pytestmark = pytest.mark.skipif(
    shutil.which("uv") is None or not (ROOT / "uv.lock").is_file(), reason="needs uv and a resolved checkout"
)


class _Database(BaseHTTPRequestHandler):
    """As much of OSV's protocol as an audit takes: the first package has an advisory."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        results = [
            {"vulns": [{"id": ADVISORY, "modified": "2026-01-01T00:00:00Z"}]},
            *({} for _ in asked[1:]),
        ]
        self._answer({"results": results})

    def do_GET(self) -> None:
        times = {"modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z"}
        self._answer({"id": ADVISORY, "summary": "a hole", "affected": [], **times})

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Says nothing."""


@pytest.fixture
def database() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Database) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def audit(service: str) -> subprocess.CompletedProcess[str]:
    command = [ROOT / ".ci" / "audit", "--frozen", "--service-url", service]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_an_advisory_fails_the_audit(database):
    done = audit(database)
    assert done.returncode != 0
    assert ADVISORY in done.stdout + done.stderr


def test_a_database_that_is_away_is_said_and_fails_nothing():
    done = audit("http://127.0.0.1:9/")
    assert done.returncode == 0, done.stderr
    assert "skipped, the OSV database can't be reached" in done.stderr


def test_the_bill_of_materials_names_what_is_installed(tmp_path):
    target = tmp_path / "sbom.json"
    subprocess.run([sys.executable, ROOT / ".ci" / "sbom.py", target], check=True, capture_output=True)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    packages = {component["name"]: component for component in bill["components"]}
    for name in ("torch", "prefect", "safetensors"):
        assert packages[name]["version"] == version(name)
    assert packages["safetensors"]["licenses"] == [{"license": {"name": "Apache Software License"}}]
    assert "pytest" not in packages, "the product's, not the tests'"
