"""The program that every training rank runs: `python -m turbosparse.train.worker job.json`."""

import signal
import sys
from pathlib import Path

from turbosparse.processes import die_with_parent


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
