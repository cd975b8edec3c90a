"""Prefect as infra/ runs it: its database on PostgreSQL, migrated beforehand, its API with authentication."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flows_command import SHORT, TURBOSPARSE
from postgres_server import Postgres, find_binaries, free_port, running_postgres

from tasks.server import wait_until_healthy

PREFECT = str(Path(sys.executable).with_name("prefect"))
AUTH = "admin:canary-of-the-api"
STAGES = {"prepare", "base", "convert", "pretrain", "instructions", "finetune", "evaluate", "export"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[Postgres]:
    binaries = find_binaries(tmp_path_factory.mktemp("debian") / "packages")
    if binaries is None:
        pytest.skip("PostgreSQL is not installed, and Debian's packages of it can't be had")
    with running_postgres(binaries) as running:
        yield running


@pytest.fixture(scope="module")
def environment(postgres, tmp_path_factory) -> Iterator[dict[str, str]]:
    """What a client of the server needs; the server runs meanwhile."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    common = clean | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    of_server = common | {
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url,
        "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    upgrade = [PREFECT, "server", "database", "upgrade", "--yes"]
    subprocess.run(upgrade, env=of_server, check=True, timeout=300)
    with (home / "server.log").open("wb") as log:
        command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=of_server, stdout=log, stderr=log)
    try:
        wait_until_healthy(server, url, home / "server.log")
        yield common | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": AUTH}
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def dry_run(environment: dict[str, str], root: Path) -> subprocess.CompletedProcess[str]:
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    command = [TURBOSPARSE, "dry-run", "--preset", "tiny", "--root", str(root), "--json", *settings]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=1500, check=False, cwd=root.parent
    )


def test_the_api_answers_nobody_without_its_password(environment):
    url = f"{environment['PREFECT_API_URL']}/flow_runs/count"
    with httpx.Client(timeout=60) as client:
        assert client.post(url, json={}).status_code == 401
        assert client.post(url, json={}, auth=("admin", "wrong")).status_code == 401
        assert client.post(url, json={}, auth=tuple(AUTH.split(":"))).status_code == 200


def test_the_pipeline_runs_against_it(environment, postgres, tmp_path):
    ended = dry_run(environment, tmp_path / "runs")
    assert ended.returncode == 0, ended.stderr[-3000:]
    report = json.loads(ended.stdout.splitlines()[-1])
    assert not any(stage["reused"] for stage in report["stages"].values())
    runs = postgres.query("select name, state_type from flow_run where parent_task_run_id is null")
    assert [run for run in runs if run.startswith("pipeline-tiny")] == ["pipeline-tiny-dry-run|COMPLETED"]
    made = postgres.query(
        "select distinct split_part(name, '-', 1) from task_run where state_type = 'COMPLETED'"
    )
    assert set(made) >= STAGES, "every stage's task is there, and done"
    assert postgres.query("select 1 from artifact where key = 'pipeline-report'")
    assert AUTH.split(":")[1] not in postgres.dump()
