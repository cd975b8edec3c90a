"""Prefect and W&B that vanish, workers and disks that give out, in the middle of a run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from commands import Bench, digests, losses
from phases import attempt_of, committed, steps_of

from turbosparse.artifacts import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


class PrefectServer:
    """A server that can be killed and started again over the same database."""

    def __init__(self, home: Path, port: int) -> None:
        self._home = home
        self._port = port
        self.url = f"http://127.0.0.1:{port}/api"
        home.mkdir()
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= {"PREFECT_HOME": str(self._home), "PREFECT_UI_ENABLED": "0"}
        with (self._home / "log").open("ab") as log:
            command = [sys.executable, "-m", "tasks.server", str(self._port)]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                assert self._process.poll() is None, (self._home / "log").read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        """Ends it as a power cut does."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path, monkeypatch, free_port):
    started = PrefectServer(tmp_path / "prefect", free_port)
    monkeypatch.setenv("PREFECT_API_URL", started.url)
    yield started
    started.kill()


def test_a_prefect_server_that_restarts_is_waited_for(words, undisturbed, bench, server, dice):
    bench.start("run", "prepare", *words)
    bench.wait_for(attempt_of("documents")(bench.root, dice))
    server.kill()
    time.sleep(2)
    server.start()
    assert bench.finish() == 0, bench.said()
    bench.check_nothing_is_left()
    expected = digests(undisturbed.upto("prepare"), "prepare")
    assert digests(Store(str(bench.root)), "prepare") == expected


def test_training_goes_on_without_the_prefect_server(words, undisturbed, bench, server, dice, monkeypatch):
    """The run ends with an error, its model is whole, and the next run takes it."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "2")  # or it would be waited for: minutes
    undisturbed.copy_parents("pretrain", bench.root)
    bench.start("run", "pretrain", *words)
    bench.wait_for(steps_of("pretrain")(bench.root, dice))
    server.kill()
    bench.wait_for(committed("pretrain", 1)(bench.root, dice))
    assert bench.has_said("Prefect's server does not answer"), bench.said()
    assert bench.finish() == 1
    assert bench.has_said("what is finished is kept"), bench.said()
    server.start()
    bench.start("run", "pretrain", *words)
    assert bench.finish() == 0, bench.said()
    bench.check_nothing_is_left()
    expected = pytest.approx(losses(undisturbed.upto("pretrain"), "pretrain"), abs=1e-6)
    assert losses(Store(str(bench.root)), "pretrain") == expected


def test_training_goes_on_without_wandb(words, undisturbed, bench, monkeypatch, free_port):
    """Nobody listens: the run is kept in the artifact, for `wandb sync`."""
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    undisturbed.copy_parents("pretrain", bench.root)
    bench.start("run", "pretrain", *words, "--place", "training.wandb.project=faults")
    assert bench.finish() == 0, bench.said()
    assert bench.has_said("W&B can't be reached"), bench.said()
    (manifest,) = (found for found in Store(str(bench.root)).manifests() if found.kind == "pretrain")
    assert [name for name in manifest.files if name.startswith("wandb/") and name.endswith(".wandb")]
    bench.check_nothing_is_left()


@pytest.mark.parametrize("workers", ["processes", "dask"])
def test_a_worker_that_is_killed_for_its_memory_is_replaced(workers, words, undisturbed, bench, dice):
    """As the kernel does where memory runs out: the command itself goes on."""
    bench.start("run", "prepare", *words, "--num-workers", "2", "--workers", workers)
    bench.wait_for(committed("documents", 2)(bench.root, dice))
    bench.kill("worker")
    assert bench.finish() == 0, bench.said()
    bench.check_nothing_is_left()
    expected = digests(undisturbed.upto("prepare"), "prepare")
    assert digests(Store(str(bench.root)), "prepare") == expected


def test_a_run_on_a_disk_that_fills_up_goes_on_where_it_was(words, undisturbed, make_disk, tmp_path):
    disk = make_disk(1)
    bench = Bench(tmp_path / "bench", disk.folder)
    command = ["run", "prepare", *words, "--root", str(disk.folder)]
    bench.start(*command)
    assert bench.finish() == 2, bench.said()
    assert bench.has_said("No space left on device"), bench.said()
    bench.check_nothing_is_half_visible()
    finished = {manifest.name: manifest.attempt for manifest in Store(str(bench.root)).manifests()}
    assert finished, "it was full before anything was done"
    disk.remount("size=64m")
    bench.start(*command)
    assert bench.finish() == 0, bench.said()
    bench.check_nothing_is_left()
    made = {manifest.name: manifest.attempt for manifest in Store(str(bench.root)).manifests()}
    assert finished.items() <= made.items(), "what was finished was made again"
    expected = digests(undisturbed.upto("prepare"), "prepare")
    assert digests(Store(str(bench.root)), "prepare") == expected
