"""Programs for the ranks of launcher tests: what a training worker may do, without training."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

from turbosparse.errors import ConfigError
from turbosparse.train.launch.heartbeat import FOLDER, beat
from turbosparse.train.launch.protocol import Refusal, emit

RANK = int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Step:
    """A step's record, as far as a launcher cares."""

    step: int


def main() -> None:
    """Does what the job file says."""
    job = json.loads(Path(sys.argv[1]).read_text())
    globals()[job["does"]](job)


def steps(job: dict) -> None:
    """Beats and reports; may then write a checkpoint when told to."""
    for step in range(1, job["num_steps"] + 1):
        beat(f"step {step}")
        if RANK == 0:
            emit("step", Step(step))
    print(f"rank {RANK} of {os.environ['WORLD_SIZE']} is done")


def sums_over_ranks(job: dict) -> None:
    """One gloo all-reduce."""
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    distributed.init_process_group("gloo")
    total = torch.tensor(float(RANK + 1))
    distributed.all_reduce(total)
    if RANK == 0:
        emit("step", Step(int(total)))
    distributed.destroy_process_group()


def ignores_sigterm(job: dict) -> None:
    """Lives on, with a child, shared memory and a lock, whatever it is asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    segment = shared_memory.SharedMemory(f"turbosparse-test-{os.getpid()}", create=True, size=8)
    # As when the tracker is killed with the rank.
    resource_tracker.unregister(segment._name, "shared_memory")
    if os.fork() == 0:
        os.setsid()
    (Path(job["folder"]) / f"{RANK}-{os.getpid()}").write_text(os.environ["TMPDIR"])
    beat("step 1")
    time.sleep(600)


def saves_when_told(job: dict) -> None:
    """Takes a while to write a checkpoint, then says that it was told to stop."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    (Path(job["folder"]) / f"{RANK}-{os.getpid()}").touch()
    while not told:
        time.sleep(0.05)
    print("x" * 200_000)
    time.sleep(job["seconds"])
    (Path(job["folder"]) / f"saved-{RANK}").touch()
    sys.exit(os.EX_TEMPFAIL)


def hangs(job: dict) -> None:
    """One rank stops after its first step; the others wait for it in the second."""
    beat("step 1")
    if job["rank"] != RANK:
        beat("step 2")
    time.sleep(600)


def beats_nonsense(job: dict) -> None:
    """What no agent can read."""
    (Path(os.environ[FOLDER]) / str(RANK)).write_text("nonsense")
    time.sleep(600)


def refuses(job: dict) -> None:
    """As a worker that finds its job impossible."""
    error = ConfigError("a.field", 3, "something else", "change it")
    emit("refusal", Refusal("ConfigError", list(error.__reduce__()[1])))
    sys.exit(2)


def leaves_a_child(job: dict) -> None:
    """Fails, and leaves a process in a session of its own, as an uploader is."""
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(600)
    (Path(job["folder"]) / "child").write_text(str(child))
    sys.exit(1)


def fails(job: dict) -> None:
    """One rank dies by a signal, or with words."""
    if job["rank"] == RANK:
        if job.get("signal"):
            os.kill(os.getpid(), job["signal"])
        raise RuntimeError("the words of a failing rank")
    time.sleep(600)
