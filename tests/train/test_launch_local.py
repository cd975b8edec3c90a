"""The local launcher with real processes: every way to end it ends every rank, and leaves nothing."""

import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from turbosparse.config import Placement
from turbosparse.errors import ConfigError, TrainingError, TrainingPreempted
from turbosparse.train.launch import Program, open_launcher

GRACE_SECONDS = 2.0
CANCEL_SECONDS = 40.0


@pytest.fixture(autouse=True)
def _workers_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def launch(folder: Path, does: str, on_log=lambda line: None, place=None, **job) -> list[int]:
    limits = {"preemption_grace_seconds": GRACE_SECONDS, "hang_timeout_seconds": 2.0}
    placement = Placement(**{"num_ranks": 2, "supervision": limits, **(place or {})})
    text = json.dumps({"does": does, "folder": str(folder), **job})
    events = []
    program = Program("test", "0123", text, str(folder / "state"), "launch_workers")
    open_launcher(placement).launch(program, events.append, on_log)
    return [event.values["step"] for event in events]


def test_events_of_rank_0_and_every_ranks_words_arrive(tmp_path):
    log = []
    assert launch(tmp_path, "steps", log.append, num_steps=50) == list(range(1, 51))
    assert sorted(log) == ["rank 0 of 2 is done", "rank 1 of 2 is done"]


@pytest.mark.slow
def test_failures_name_the_rank_and_carry_its_words(tmp_path):
    with pytest.raises(TrainingError, match=r"rank 1 ended with status 1:(.|\n)*the words of a failing rank"):
        launch(tmp_path, "fails", rank=1)
    with pytest.raises(TrainingError, match="rank 0 was ended by SIGSEGV"):
        launch(tmp_path, "fails", rank=0, signal=int(signal.SIGSEGV))
    with pytest.raises(ConfigError, match=r"a\.field: 3\. Expected: something else"):
        launch(tmp_path, "refuses")


@pytest.mark.slow
def test_children_that_outlive_a_failed_rank_are_ended(tmp_path):
    """Their parent is gone, and with it the way from the agent down to them."""
    with pytest.raises(TrainingError, match="rank 0 ended with status 1"):
        launch(tmp_path, "leaves_a_child", place={"num_ranks": 1})
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))


@pytest.mark.slow
def test_ranks_do_not_run_on_unwatched(tmp_path):
    """A supervisor that breaks would leave ranks whose hang nobody notices."""
    with pytest.raises(TrainingError, match="JSONDecodeError"):
        launch(tmp_path, "beats_nonsense", place={"num_ranks": 1})


@pytest.mark.slow
def test_a_hung_rank_ends_the_run_and_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"^rank 1 hung: silent for [0-9]+ s, last heard at 'step 1'"):
        launch(tmp_path, "hangs", rank=1)


def _raise(number, frame):
    raise KeyboardInterrupt


def _launch_as_a_flow_would(folder: Path, does: str, job: dict) -> None:
    # Prefect turns SIGTERM into an exception in the flow's main thread.
    signal.signal(signal.SIGTERM, _raise)
    launch(folder, does, **job)


def _start(folder: Path, does: str, **job) -> tuple[multiprocessing.Process, list[psutil.Process]]:
    """Starts a launcher in a process of its own; returns it with its agent and all of their processes."""
    context = multiprocessing.get_context("fork")
    launcher = context.Process(target=_launch_as_a_flow_would, args=(folder, does, job))
    launcher.start()
    deadline = time.monotonic() + 120
    while len(list(folder.glob("[01]-*"))) < job.get("num_processes", 2):
        assert launcher.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    return launcher, psutil.Process(launcher.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_ranks_that_ignore_sigterm_end_with_their_launcher(number, tmp_path):
    """Ranks and their children are in sessions of their own: no signal to a group reaches them."""
    launcher, processes = _start(tmp_path, "ignores_sigterm", num_processes=4)
    marks = list(tmp_path.glob("[01]-*"))
    assert {int(mark.name.split("-")[1]) for mark in marks} <= {process.pid for process in processes}
    started = time.monotonic()
    os.kill(launcher.pid, number)
    launcher.join(CANCEL_SECONDS)
    _, alive = psutil.wait_procs(processes, timeout=CANCEL_SECONDS - (time.monotonic() - started))
    assert not alive, [process.cmdline() for process in alive]
    assert time.monotonic() - started >= GRACE_SECONDS, "ranks get their time first"
    assert not list(Path("/dev/shm").glob("turbosparse-test-*"))
    assert not [mark for mark in marks if Path(mark.read_text()).exists()], "temporary files are left"


@pytest.mark.slow
@pytest.mark.parametrize("signalled", ["launcher", "agent", "launcher's group"])
def test_ranks_write_a_checkpoint_before_they_end(signalled, tmp_path):
    """Whoever is signalled, once or twice over, the ranks get one SIGTERM and their grace."""
    launcher, processes = _start(tmp_path, "saves_when_told", seconds=1.0)
    agent = next(process for process in processes if process.ppid() == launcher.pid)
    if signalled == "launcher":
        os.kill(launcher.pid, signal.SIGTERM)
    else:
        agent.send_signal(signal.SIGTERM)
    if signalled == "launcher's group":
        os.kill(launcher.pid, signal.SIGTERM)
        time.sleep(0.3)
        agent.send_signal(signal.SIGTERM)
    launcher.join(CANCEL_SECONDS)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


@pytest.mark.slow
def test_an_agent_that_is_told_to_stop_says_so(tmp_path):
    """As when a node is drained: the caller may run again, and need not look at the ranks' output."""
    context = multiprocessing.get_context("fork")
    parent = os.getpid()

    def tell() -> None:
        while not list(tmp_path.glob("1-*")) or not list(tmp_path.glob("0-*")):
            time.sleep(0.05)
        agents = [p for p in psutil.Process(parent).children() if "launch.agent" in " ".join(p.cmdline())]
        agents[0].send_signal(signal.SIGTERM)

    teller = context.Process(target=tell)
    teller.start()
    with pytest.raises(TrainingPreempted, match="run it again"):
        launch(tmp_path, "saves_when_told", seconds=0.1)
    teller.join()


@pytest.mark.slow
def test_two_nodes_meet_on_loopback(tmp_path):
    """Two agents, one rank each, one gloo job: the command that node 0 logs is all that node 1 needs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    others = []

    def join(line: str) -> None:
        if line.startswith("node 1 joins by: "):
            _, *command = shlex.split(line.removeprefix("node 1 joins by: "))
            others.append(subprocess.Popen([sys.executable, *command]))

    place = {"num_nodes": 2, "num_ranks": 1, "rendezvous": f"127.0.0.1:{port}"}
    assert launch(tmp_path, "sums_over_ranks", join, place) == [3]
    assert [other.wait(30) for other in others] == [0]
