"""The program that every training rank runs: `python -m turbosparse.train.worker job.json`."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int) -> None:
    """Asks Linux to signal this process when its parent dies: no rank outlives its launcher."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def main() -> None:
    """Trains as the job file says."""
    die_with_parent(signal.SIGKILL)
    # Composer takes 18 seconds to import: only after the kernel was told whom to follow.
    from composer.utils import dist, get_device  # noqa: PLC0415

    from turbosparse.train.job import TrainJob  # noqa: PLC0415
    from turbosparse.train.trainer import train  # noqa: PLC0415

    job = TrainJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dist.initialize_dist(get_device(None))
    train(job)


if __name__ == "__main__":
    main()
