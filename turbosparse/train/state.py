"""Everything that a training run must get back to go on as if it had not been interrupted."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.core.time import Timestamp
from composer.utils import dist
from streaming import StreamingDataset
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from turbosparse.model.rewrite import our_values
from turbosparse.train.callbacks.guard import StepGuard
from turbosparse.train.callbacks.profiling import TRACE_NAME
from turbosparse.train.callbacks.ranks import module_of
from turbosparse.train.history import StepRecord, encode_history, read_history, write_history
from turbosparse.train.job import TrainJob

HISTORY_NAME = "history.jsonl"
CONFIG_NAMES = ("config.json", "generation_config.json")
MODEL_PREFIX = "model/"
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """A trainer's state as tensors, a JSON record and small files.

    Nothing random is kept: every step seeds itself by its number. Nothing depends on the number of
    ranks: the data's order and the global batch are the same for any.
    """

    def __init__(self, job: TrainJob, trainer: Trainer, dataset: StreamingDataset, guard: StepGuard) -> None:
        self._job = job
        self._trainer = trainer
        self._dataset = dataset
        self._guard = guard

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights and AdamW's state by name, each the tensor that is in use (a shard's DTensor)."""
        return self.weights() | self._optimizer_state()

    def weights(self) -> dict[str, Tensor]:
        """Returns the model's weights by name, tied ones once."""
        return {f"{MODEL_PREFIX}{name}": weight.detach() for name, weight in self._parameters()}

    def record(self) -> dict[str, Any]:
        """Returns what else training resumes from, as JSON."""
        timestamp = self._trainer.state.timestamp
        values = {
            name: value.total_seconds() if isinstance(value, timedelta) else value
            for name, value in timestamp.state_dict().items()
        }
        return {"timestamp": values, "data": self._dataset.state_dict(timestamp.sample_in_epoch.value, True)}

    def files(self) -> dict[str, bytes]:
        """Returns small files: the history so far, and the model's configuration."""
        history = read_history(self._job.history_path) if self._job.history_path.exists() else []
        model = module_of(self._trainer.state).model
        # Weights are saved as they are trained, in fp32, whatever the model they came from was stored in.
        config = our_values(model.config) | {"dtype": "float32"}
        files = {
            HISTORY_NAME: encode_history(history),
            "config.json": json.dumps(config, indent=2) + "\n",
            "generation_config.json": model.generation_config.to_json_string(),
        }
        trace = Path(self._job.state_folder) / TRACE_NAME
        traces = {TRACE_NAME: trace.read_bytes()} if trace.is_file() else {}
        return {name: text.encode() for name, text in files.items()} | traces

    def restore(self, record: dict[str, Any], history: list[StepRecord]) -> None:
        """Goes on after the step of `record`; tensors must be back already.

        Args:
            record: What `record` gave.
            history: The steps until then; rank 0's file forgets those after it, which run again.
        """
        values = {
            name: timedelta(seconds=value) if name.endswith("_wct") else value
            for name, value in record["timestamp"].items()
        }
        state = self._trainer.state
        state.timestamp = Timestamp()
        state.timestamp.load_state_dict(values)
        self._dataset.load_state_dict(record["data"])
        state.dataset_resumption["train"] = True
        (schedule,) = state.schedulers
        schedule.last_epoch = state.timestamp.batch.value
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, (peak, ratio_at) in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = peak * ratio_at(schedule.last_epoch)
        self._guard.remember(history)
        if dist.get_global_rank() == 0:
            write_history(self._job.history_path, history)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        parameters = list(module_of(self._trainer.state).model.named_parameters())
        is_sharded = all(isinstance(parameter, DTensor) for _, parameter in parameters)
        assert is_sharded or self._job.num_ranks == 1, "weights are still gathered"
        return parameters

    def _optimizer_state(self) -> dict[str, Tensor]:
        (optimizer,) = self._trainer.state.optimizers
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters():
            state = optimizer.state[parameter]
            # Before the first step, and where a parameter never had a gradient, there is no state yet.
            if not state:
                state |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
            tensors[f"step/{name}"] = state["step"]
        return tensors
