"""A profiler's trace of a few steps, on request."""

from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.profiler import ProfilerActivity, profile

from turbosparse.train.job import TrainJob

NUM_PROFILED_STEPS = 3
TRACE_NAME = "trace.json.gz"


class Profiling(Callback):
    """Writes rank 0's trace of three steps for chrome://tracing or Perfetto."""

    def __init__(self, job: TrainJob) -> None:
        assert job.hardware.profile_at_step is not None
        self._first_step = job.hardware.profile_at_step
        self._path = Path(job.state_folder) / TRACE_NAME
        self._profile: profile | None = None

    def batch_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Starts with the first profiled step."""
        if dist.get_global_rank() == 0 and state.timestamp.batch.value + 1 == self._first_step:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, profile_memory=True, with_flops=True)
            self._profile.start()

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Writes the trace after the last profiled step."""
        is_last = state.timestamp.batch.value >= self._first_step + NUM_PROFILED_STEPS - 1
        if self._profile is not None and is_last:
            self._profile.stop()
            self._profile.export_chrome_trace(str(self._path))
            self._profile = None
