"""The paper's recipe as optimizer and schedule (Tables 5 and 12)."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate

from turbosparse.config import PredictorConfig, TrainConfig


def build_optimizer(
    model: nn.Module, recipe: TrainConfig, predictor: PredictorConfig | None
) -> torch.optim.Optimizer:
    """Returns AdamW with the predictors, if any, in a group with a learning rate of their own."""
    predictors = [p for name, p in model.named_parameters() if ".predictor." in name]
    backbone = [p for name, p in model.named_parameters() if ".predictor." not in name]
    groups: list[dict[str, Any]] = [{"params": backbone, "lr": recipe.learning_rate}]
    if predictor is not None:
        groups.append({"params": predictors, "lr": predictor.learning_rate, "weight_decay": 0.0})
    betas = (recipe.adam_beta1, recipe.adam_beta2)
    # Fused: one pass over weights, gradients and moments instead of eight.
    return torch.optim.AdamW(groups, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: TrainConfig) -> LambdaLR:
    """Returns linear warmup, then a cosine down to the final learning rate.

    The first step's rate is one warmup step up, not zero. Composer's own scheduler lags one step behind
    and would make two steps at zero.
    """
    schedule: LambdaLR = get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer,
        num_warmup_steps=recipe.warmup_steps,
        num_training_steps=recipe.num_steps,
        min_lr_rate=recipe.final_learning_rate_ratio,
    )
    return schedule
