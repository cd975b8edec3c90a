"""Gradient clipping that works under FSDP2."""

from composer.core import Callback, State
from composer.loggers import Logger
from torch.nn.utils import clip_grad_norm_


class GradientNormClipping(Callback):
    """Scales gradients down to a norm, each parameter group by itself.

    Composer's own GradientClipping looks for FSDP1 modules when sharding is on, finds none under
    FSDP2 and clips nothing. Groups are apart so that predictors do not steer the model's norm.
    """

    def __init__(self, max_norm: float) -> None:
        self._max_norm = max_norm

    def after_train_batch(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Runs after the last microbatch's backward and before the optimizer's step."""
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                clip_grad_norm_(group["params"], self._max_norm)
