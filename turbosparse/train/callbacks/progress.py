"""Progress of a training run: one record per step, kept on disk and sent to the launcher."""

import time

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from turbosparse.train.history import StepRecord, append_record
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.protocol import emit
from turbosparse.train.module import CausalLMTraining

# Counting zeros reads every activation once more; every fifth step is often enough for a curve.
OBSERVE_EVERY_STEPS = 5


class StepProgress(Callback):
    """Measures loss, speed and sparsity over all ranks; rank 0 records and reports them."""

    def __init__(self, job: TrainJob, sequence_length: int) -> None:
        self._job = job
        self._num_tokens = job.recipe.batch_size_sequences * sequence_length
        self._started = time.monotonic()

    def batch_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Opens the step."""
        module = _module(state)
        step = state.timestamp.batch.value + 1
        module.observes = step == self._job.recipe.num_steps or step % OBSERVE_EVERY_STEPS == 1
        module.observer.start_step()
        module.language_model_losses.clear()
        module.predictor_losses.clear()
        self._started = time.monotonic()

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Closes the step: all ranks agree on the figures, rank 0 keeps them."""
        record = self._measure(state)
        if dist.get_global_rank() == 0:
            append_record(self._job.history_path, record)
            emit("step", record)

    def _measure(self, state: State) -> StepRecord:
        module = _module(state)
        seconds = time.monotonic() - self._started
        loss = _mean_over_ranks(module.language_model_losses)
        has_predictors = bool(module.predictor_losses)
        predictor_loss = _mean_over_ranks(module.predictor_losses) if has_predictors else None
        counts = module.observer.counts()
        dist.all_reduce(counts)
        zeros, activations, active, found = counts.tolist()
        return StepRecord(
            step=state.timestamp.batch.value,
            loss=loss,
            tokens_per_second=self._num_tokens / seconds,
            learning_rate=state.schedulers[0].get_last_lr()[0],
            zero_activation_ratio=zeros / activations if activations else None,
            predictor_recall=found / active if active else None,
            predictor_loss=predictor_loss,
        )


def _module(state: State) -> CausalLMTraining:
    module = state.model
    # Under DDP Composer wraps the module; under FSDP2 it stays itself.
    inner = getattr(module, "module", module)
    assert isinstance(inner, CausalLMTraining)
    return inner


def _mean_over_ranks(losses: list[Tensor]) -> float:
    total = torch.stack(losses).mean()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
