"""The agent of one node: torchrun, supervised, bound to the life of the process that started it."""

import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from turbosparse.processes import adopt_orphans, descendants, die_with_parent, kill_each
from turbosparse.scratch import scratch_folder
from turbosparse.train.launch import heartbeat, shared_memory
from turbosparse.train.launch.command import AgentOptions, parse_options
from turbosparse.train.launch.heartbeat import Heartbeats
from turbosparse.train.launch.protocol import Failure, emit
from turbosparse.train.launch.rank import AGENT
from turbosparse.train.launch.shared_memory import Segments
from turbosparse.train.launch.supervisor import Supervisor

EXIT_BAD_INPUT = 2
SCRATCH = "turbosparse-ranks-"


def main() -> None:
    """Runs torchrun as this program's arguments say, and leaves nothing behind.

    Exit status: 0 done; 2 a rank refused its input; EX_TEMPFAIL (75) told to stop, to be run again;
    1 anything else.
    """
    # SIGTERM: whoever started this may be killed at once; the ranks then still get their grace.
    die_with_parent(signal.SIGTERM)
    adopt_orphans()
    options = parse_options(sys.argv[1:])
    # A fresh folder for temporary files: streaming's file locks survive a kill.
    with scratch_folder(SCRATCH, on_abandoned=_remove_segments) as scratch:
        sys.exit(_supervise(options, scratch))


def _supervise(options: AgentOptions, scratch: Path) -> int:
    os.environ |= _environment(options, scratch)
    tempfile.tempdir = None  # Python remembers the folder that it found first; torchrun is to use ours
    clean_up = partial(_clean_up, scratch)
    heartbeats = _heartbeats(options, scratch / "heartbeats")
    supervisor = Supervisor(heartbeats, options.supervision, Segments(scratch), clean_up)
    try:
        with supervisor.watching():
            return _run(options, supervisor)
    finally:
        clean_up()


def _heartbeats(options: AgentOptions, folder: Path) -> Heartbeats:
    folder.mkdir()
    first = (options.node_rank or 0) * options.num_ranks
    return Heartbeats(folder, range(first, first + options.num_ranks), options.supervision)


def _clean_up(scratch: Path) -> None:
    kill_each(descendants())
    _remove_segments(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_segments(scratch: Path) -> None:
    Segments(scratch).remove_unused()


def _run(options: AgentOptions, supervisor: Supervisor) -> int:
    # Torch takes seconds to import: signals and the parent's death are already heeded.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.run import parse_args, run  # noqa: PLC0415

    try:
        run(parse_args(_torchrun_arguments(options)))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if supervisor.is_told_to_stop or failure.exitcode == os.EX_TEMPFAIL:
            return os.EX_TEMPFAIL
        emit("failure", Failure(rank, failure.exitcode))
        return EXIT_BAD_INPUT if failure.exitcode == EXIT_BAD_INPUT else 1
    return 0


def _torchrun_arguments(options: AgentOptions) -> list[str]:
    if options.num_nodes == 1:
        meeting = ["--standalone"]
    else:
        host, port = str(options.rendezvous).split(":")
        meeting = [f"--nnodes={options.num_nodes}", f"--node-rank={options.node_rank}"]
        meeting += [f"--master-addr={host}", f"--master-port={port}"]
    # torchrun's own handling of SIGTERM would let a second one cut the ranks' grace short.
    ours = ["--signals-to-handle=SIGUSR2", f"--nproc-per-node={options.num_ranks}"]
    rank = ["-m", "turbosparse.train.launch.rank", options.worker, options.job_file]
    return [*meeting, *ours, *rank]


def _environment(options: AgentOptions, scratch: Path) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // options.num_ranks)
    return {
        AGENT: str(os.getpid()),
        heartbeat.FOLDER: str(scratch / "heartbeats"),
        shared_memory.FOLDER: str(scratch),
        "TMPDIR": str(scratch),
        # When one rank ends, the others are at their checkpoint too.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(round(options.supervision.preemption_grace_seconds)),
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


if __name__ == "__main__":
    main()
