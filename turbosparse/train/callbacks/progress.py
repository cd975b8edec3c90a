"""Progress of a training run: one record per step, kept on disk and sent to the launcher."""

import resource
import time
from dataclasses import asdict
from typing import Any

import torch
from composer.callbacks.speed_monitor import get_gpu_flops_available
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from turbosparse.analysis.flops import model_flops_utilization, training_flops_per_token
from turbosparse.train.callbacks.evaluation import TaskEvaluation
from turbosparse.train.callbacks.guard import StepGuard
from turbosparse.train.callbacks.ranks import module_of
from turbosparse.train.callbacks.validation import Validation
from turbosparse.train.history import StepRecord, append_record
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat
from turbosparse.train.launch.protocol import emit
from turbosparse.train.levers.sequences import length_at
from turbosparse.train.module import num_supervised_tokens
from turbosparse.train.statistics import busiest_expert_load, zero_activation_layers

# Counting zeros reads every activation once more, uncompiled: often enough for a curve is enough.
OBSERVE_EVERY_STEPS = 5
OBSERVE_EVERY_STEPS_ON_GPU = 50


def observe_every_steps() -> int:
    """Returns the number of steps of which one measures the FFNs' activations."""
    return OBSERVE_EVERY_STEPS_ON_GPU if torch.cuda.is_available() else OBSERVE_EVERY_STEPS


class StepProgress(Callback):
    """Measures loss, speed and sparsity over all ranks; rank 0 records and reports them."""

    def __init__(
        self,
        job: TrainJob,
        sequence_length: int,
        guard: StepGuard,
        validation: Validation,
        evaluation: TaskEvaluation,
    ) -> None:
        self._job = job
        self._guard = guard
        self._validation = validation
        self._evaluation = evaluation
        self._sequence_length = sequence_length
        self._length_tokens = sequence_length
        self._num_tokens = job.recipe.batch_size_sequences * sequence_length
        self._observe_every = observe_every_steps()
        self._first_step = 1
        self._learning_rate = 0.0
        self._peak_flops_per_second = 0.0
        self._started = time.monotonic()

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Learns what the device could do."""
        self._first_step = state.timestamp.batch.value + 1
        if torch.cuda.is_available():
            self._peak_flops_per_second = get_gpu_flops_available(state)
        self._started = time.monotonic()

    def batch_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Opens the step."""
        step = state.timestamp.batch.value + 1
        beat(f"step {step}", is_slow=step == self._first_step)
        # Whatever is random in a step depends on the step alone: a resumed run repeats it.
        torch.manual_seed(self._job.recipe.seed * 1_000_003 + step * dist.get_world_size() + _rank())
        self._learning_rate = state.optimizers[0].param_groups[0]["lr"]
        num_steps = self._job.recipe.num_steps
        observes = step == num_steps or step % self._observe_every == 1
        progress_ratio = (step - 1) / num_steps
        warmup = self._job.recipe.sequence_warmup
        self._length_tokens = length_at(warmup, progress_ratio, self._sequence_length)
        tokens_per_sequence = self._tokens_per_sequence(state.batch)
        module_of(state).start_step(progress_ratio, observes, tokens_per_sequence)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Closes the step: all ranks agree on the figures, rank 0 keeps them."""
        record = self._measure(state)
        if _rank() == 0:
            append_record(self._job.history_path, record)
            emit("step", record)
        logger.log_metrics(_flat(record))

    def batch_checkpoint(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Starts the next step's clock: its wait for data counts, this one's checkpoint does not."""
        self._started = time.monotonic()

    def _tokens_per_sequence(self, batch: dict[str, torch.Tensor]) -> float:
        if "labels" not in batch:
            # The first token of each piece has no prediction.
            return self._sequence_length - self._sequence_length // self._length_tokens
        total = torch.tensor(float(num_supervised_tokens(batch)), device=_device())
        dist.all_reduce(total)
        return float(total) / self._job.recipe.batch_size_sequences

    def _measure(self, state: State) -> StepRecord:
        step = state.timestamp.batch.value
        seconds = time.monotonic() - self._started
        losses = dict(self._guard.losses)
        return StepRecord(
            step=step,
            loss=losses.pop("language_model"),
            tokens_per_second=self._num_tokens / seconds,
            learning_rate=self._learning_rate,
            gradient_norm=self._guard.gradient_norm,
            mfu=self._mfu(state, seconds),
            memory_bytes=_peak_memory_bytes(),
            is_skipped=self._guard.is_skipped,
            validation_losses=self._validation.losses_of(step, state),
            task_results=self._evaluation.results_of(step, state),
            other_losses=losses,
            predictor_recall=_predictor_recall(state),
            **_sparsity(state),
        )

    def _mfu(self, state: State, seconds: float) -> float | None:
        if not self._peak_flops_per_second:
            return None
        token_flops = training_flops_per_token(module_of(state).model.config, self._length_tokens)
        speed = self._num_tokens / seconds
        return model_flops_utilization(token_flops, speed, dist.get_world_size(), self._peak_flops_per_second)


def _sparsity(state: State) -> dict[str, Any]:
    module = module_of(state)
    if not module.observes:
        return {}
    counts = module.statistics.counts()
    dist.all_reduce(counts)
    layers = zero_activation_layers(counts)
    return {
        "zero_activation_ratio": sum(layers) / len(layers),
        "zero_activation_layers": layers,
        "busiest_expert_load": busiest_expert_load(counts),
    }


def _predictor_recall(state: State) -> float | None:
    counts = module_of(state).observer.counts().to(_device())
    dist.all_reduce(counts)
    active, _, found, _ = counts.tolist()
    return found / active if active else None


def _peak_memory_bytes() -> int:
    """Returns the largest rank's peak so far."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    largest = torch.tensor(peak, device=_device())
    dist.all_reduce(largest, reduce_operation="MAX")
    return int(largest)


def _flat(record: StepRecord) -> dict[str, Any]:
    """Returns a record's figures under names that plots can have: train/loss, train/zero_activations/3."""
    flat: dict[str, Any] = {}
    for name, value in asdict(record).items():
        if isinstance(value, list):
            flat |= {f"train/{name}/{place}": item for place, item in enumerate(value)}
        elif isinstance(value, dict):
            flat |= {f"train/{name}/{place}": item for place, item in value.items()}
        elif value is not None:
            flat[f"train/{name}"] = value
    return flat


def _rank() -> int:
    return int(dist.get_global_rank())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
