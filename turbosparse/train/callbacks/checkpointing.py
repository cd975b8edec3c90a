"""Checkpoints in the middle of training: at an interval, and when the machine is about to be taken away."""

import signal
from types import FrameType

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from turbosparse.errors import TrainingPreempted
from turbosparse.train.checkpoints import CheckpointStore
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat
from turbosparse.train.state import TrainingState


class Checkpointing(Callback):
    """Saves every so many steps; after SIGTERM to any rank saves at the step's end and stops all ranks."""

    def __init__(self, job: TrainJob, checkpoints: CheckpointStore, state: TrainingState) -> None:
        self._job = job
        self._checkpoints = checkpoints
        self._state = state
        self._is_told_to_stop = False

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Listens for SIGTERM, which Kubernetes, Slurm and our launcher send before they kill."""
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Saves if it is time to.

        Raises:
            TrainingPreempted: A rank was told to stop; a checkpoint of this step is there.
        """
        step = state.timestamp.batch.value
        stops = self._is_any_rank_told_to_stop()
        # The last step's model is saved as the result: a checkpoint would repeat it.
        is_last = step >= self._job.recipe.num_steps
        if not is_last and (stops or step % self._job.checkpoint_interval_steps == 0):
            beat(f"writing the checkpoint of step {step}", is_slow=True)
            self._checkpoints.save(step, self._state.tensors(), self._state.record(), self._state.files())
        if stops and not is_last:
            raise TrainingPreempted(f"told to stop; step {step} is saved and training resumes after it")

    def _on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - its form
        self._is_told_to_stop = True

    def _is_any_rank_told_to_stop(self) -> bool:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        told = torch.tensor(int(self._is_told_to_stop), device=device)
        dist.all_reduce(told, reduce_operation="MAX")
        return bool(told)
