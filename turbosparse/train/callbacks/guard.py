"""What stands between gradients and the optimizer: clipping, and steps that must not be taken."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from turbosparse.config import TrainConfig
from turbosparse.errors import TrainingDiverged
from turbosparse.train.callbacks.ranks import global_losses, module_of
from turbosparse.train.history import StepRecord

NUM_REMEMBERED_LOSSES = 128
NUM_LOSSES_TO_KNOW_A_SPIKE = 16


class StepGuard(Callback):
    """Scales gradients down to a norm; stops at, or skips, a step that is not finite or a spike.

    All ranks see the same loss and norm, so all decide alike. Composer's own GradientClipping looks for
    FSDP1 modules when sharding is on, finds none under FSDP2 and clips nothing. Parameter groups are
    clipped apart, so that predictors do not steer the model's norm.
    """

    def __init__(self, recipe: TrainConfig) -> None:
        self._recipe = recipe
        self._losses: deque[float] = deque(maxlen=NUM_REMEMBERED_LOSSES)
        self._num_skipped_in_a_row = 0
        self.losses: dict[str, float] = {}
        """This step's losses by name, over all ranks."""
        self.gradient_norm = math.nan
        """Of the model's gradients in this step, before clipping."""
        self.is_skipped = False
        """Whether this step's update is left out."""

    def remember(self, history: Iterable[StepRecord]) -> None:
        """Takes the losses of the steps before a restart."""
        self._losses.extend(record.loss for record in history if not record.is_skipped)

    def after_train_batch(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Runs after the last microbatch's backward and before the optimizer's step."""
        norms = [self._clip(group["params"]) for opt in state.optimizers for group in opt.param_groups]
        self.gradient_norm = norms[0]
        self.losses = global_losses(module_of(state))
        loss = self.losses["language_model"]
        problem = self._problem(loss, norms)
        self.is_skipped = problem is not None
        if problem is None:
            self._losses.append(loss)
            self._num_skipped_in_a_row = 0
            return
        self._refuse(state, problem)

    def _clip(self, parameters: list[torch.nn.Parameter]) -> float:
        norm = clip_grad_norm_(parameters, self._recipe.gradient_clip_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _problem(self, loss: float, norms: list[float]) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not all(map(math.isfinite, norms)):
            return f"its gradient's norm is {max(norms, key=lambda norm: not math.isfinite(norm))}"
        limit = self._recipe.spike_loss_ratio
        if limit is None or len(self._losses) < NUM_LOSSES_TO_KNOW_A_SPIKE:
            return None
        usual = median(self._losses)
        return f"its loss is {loss:.4g}, usual is {usual:.4g}" if loss > limit * usual else None

    def _refuse(self, state: State, problem: str) -> None:
        step = state.timestamp.batch.value + 1
        self._num_skipped_in_a_row += 1
        if self._recipe.on_bad_step == "stop":
            raise TrainingDiverged(
                f"step {step}: {problem}. Training stopped before the step was taken. Remedy: lower "
                "learning_rate, or give on_bad_step=skip to leave such steps out"
            )
        if self._num_skipped_in_a_row > self._recipe.max_skipped_steps:
            raise TrainingDiverged(
                f"step {step}: {problem}, as did {self._recipe.max_skipped_steps} steps before it. "
                "Training stopped. Remedy: lower learning_rate, or look at the data around this step"
            )
        # AdamW leaves parameters without a gradient alone, their moments and weight decay too.
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
