"""The program that every training rank runs: `python -m turbosparse.train.worker job.json`."""

import os
import sys
from pathlib import Path
from typing import Any

from turbosparse.errors import TrainingDiverged, TrainingPreempted, TurboSparseError
from turbosparse.train.launch.protocol import Refusal, emit


def main() -> None:
    """Trains as the job file says; its exit status says how it ended."""
    try:
        _train(Path(sys.argv[1]))
    except (TurboSparseError, TrainingDiverged) as error:
        emit("refusal", Refusal(type(error).__name__, _arguments(error)))
        sys.exit(2)
    except TrainingPreempted as error:
        print(error, file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)


def _arguments(error: TurboSparseError | TrainingDiverged) -> list[Any]:
    """Returns what the launcher makes the error of again, as JSON."""
    if isinstance(error, TrainingDiverged):
        return [str(error)]
    is_plain = error.value is None or isinstance(error.value, str | int | float | bool)
    return [error.field, error.value if is_plain else str(error.value), error.expected, error.remedy]


def _train(job_file: Path) -> None:
    from composer.utils import dist, get_device  # noqa: PLC0415 - Composer takes 18 seconds to import

    from turbosparse.train.job import TrainJob  # noqa: PLC0415
    from turbosparse.train.trainer import train  # noqa: PLC0415

    job = TrainJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    dist.initialize_dist(get_device(None))
    train(job)


if __name__ == "__main__":
    main()
