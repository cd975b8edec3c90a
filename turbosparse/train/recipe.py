"""The paper's recipe as optimizer and schedule (Tables 5 and 12)."""

from typing import Any

import torch
from composer.optim import CosineAnnealingWithWarmupScheduler
from torch import nn

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


def build_schedule(recipe: TrainConfig) -> CosineAnnealingWithWarmupScheduler:
    """Returns linear warmup, then a cosine down to the final learning rate at the last step."""
    return CosineAnnealingWithWarmupScheduler(
        t_warmup=f"{recipe.warmup_steps}ba",
        t_max=f"{recipe.num_steps}ba",
        alpha_f=recipe.final_learning_rate_ratio,
    )
