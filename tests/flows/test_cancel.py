"""A flow run cancelled through Prefect's API: its ranks, which ignore SIGTERM, are gone within 40 seconds."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.server import prefect_api

HERE = Path(__file__).parent
CANCEL_SECONDS = 40.0


@pytest.fixture
def api(tmp_path) -> Iterator[httpx.Client]:
    """A Prefect server with a process worker."""
    with prefect_api(tmp_path / "prefect") as wait_until_ready:
        wait_until_ready()
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "here", "--type", "process"]
        paths = os.pathsep.join([str(HERE.parent / "train"), str(HERE.parents[1])])
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield httpx.Client(base_url=os.environ["PREFECT_API_URL"], timeout=30)
        finally:
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()


def post(api: httpx.Client, url: str, **content) -> dict:
    # As Prefect's own client: the server's database may be busy.
    while (response := api.post(url, json=content)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        time.sleep(0.5)
    return response.raise_for_status().json()


def wait_for(what: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds
        time.sleep(0.2)
    return time.monotonic() - started


@pytest.mark.slow
def test_a_cancelled_flow_run_leaves_no_rank(api, tmp_path):
    wait_for(lambda: api.get("/work_pools/here").is_success, 120)
    deployment = post(
        api,
        "/deployments/",
        name="cancelled",
        flow_id=post(api, "/flows/", name="training")["id"],
        work_pool_name="here",
        entrypoint="cancelled_flow.py:training",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(HERE)}}],
    )
    parameters = {"folder": str(tmp_path)}
    run = post(api, f"/deployments/{deployment['id']}/create_flow_run", parameters=parameters)
    wait_for(lambda: len(list(tmp_path.glob("[01]-*"))) == 4, 180)
    processes = [psutil.Process(int(mark.name.split("-")[1])) for mark in tmp_path.glob("[01]-*")]
    agent = processes[0].parents()[0]
    processes += [agent, *agent.parents()[:1]]

    post(api, f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})
    _, alive = psutil.wait_procs(processes, timeout=CANCEL_SECONDS)
    assert not alive, [process.cmdline() for process in alive]
    wait_for(lambda: api.get(f"/flow_runs/{run['id']}").json().get("state_type") == "CANCELLED", 30)
    assert not list(Path("/dev/shm").glob("turbosparse-test-*"))
