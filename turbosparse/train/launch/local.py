"""The `local` launcher: torchrun as a subprocess of this one, all of whose ranks end with it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

from turbosparse.errors import TrainingError
from turbosparse.processes import end_tree
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.protocol import Event, parse

NUM_LINES_KEPT = 60


def launch(job: TrainJob, on_event: Callable[[Event], None], on_log: Callable[[str], None]) -> None:
    """Runs a training job to its end under torchrun, one process per rank.

    Args:
        job: What to train.
        on_event: Called for every event of rank 0.
        on_log: Called for every other line that any rank writes.

    Raises:
        TrainingError: A rank failed; the message holds the end of the output.
    """
    # A fresh folder for temporary files: streaming's file locks survive a kill.
    scratch = Path(tempfile.mkdtemp(prefix="turbosparse-"))
    job_file = scratch / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    process = subprocess.Popen(
        _command(job, job_file),
        env=_environment(job, scratch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        tail = _forward(process, on_event, on_log)
        if process.wait() != 0:
            raise TrainingError(f"training ended with status {process.returncode}:\n" + "\n".join(tail))
    finally:
        end_tree(process.pid)
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _command(job: TrainJob, job_file: Path) -> list[str]:
    torchrun = [sys.executable, "-m", "turbosparse.train.launch.agent", "--standalone"]
    ranks = [f"--nproc-per-node={job.num_ranks}"]
    return [*torchrun, *ranks, "-m", "turbosparse.train.worker", str(job_file)]


def _environment(job: TrainJob, scratch: Path) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // job.num_ranks)
    return os.environ | {
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait by spinning take the cores from whoever they wait for: beside one other
        # busy process on 2 cores, a step of the tiny preset took 5 s instead of 0.4 s. A short spin
        # costs nothing when the machine is idle; none at all costs a fifth.
        "GOMP_SPINCOUNT": "2000",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _forward(
    process: subprocess.Popen[str], on_event: Callable[[Event], None], on_log: Callable[[str], None]
) -> deque[str]:
    tail: deque[str] = deque(maxlen=NUM_LINES_KEPT)
    assert process.stdout is not None
    for line in process.stdout:
        event = parse(line)
        if event is not None:
            on_event(event)
        elif line.strip():
            tail.append(line.rstrip())
            on_log(line.rstrip())
    return tail
