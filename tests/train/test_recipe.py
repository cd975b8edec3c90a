"""The presets' recipes are the paper's, as the optimizer and the schedule carry them out."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from turbosparse.config import PredictorConfig, TrainConfig, resolve
from turbosparse.train.recipe import build_optimizer, build_schedule


def rates(recipe: TrainConfig) -> list[float]:
    """The learning rate of every optimizer step."""
    optimizer = build_optimizer(nn.Linear(2, 2), recipe, None)
    schedule = build_schedule(optimizer, recipe)
    found = []
    for _ in range(recipe.num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("preset", ["mistral-7b", "mixtral-8x7b"])
def test_table_5(preset):
    config = resolve(preset)
    recipe = config.pretrain
    assert (recipe.batch_size_sequences, config.data.sequence_length) == (2_048, 4_096)
    assert recipe.num_steps * 2_048 * 4_096 == pytest.approx(150e9, rel=1e-4)
    found = rates(recipe)
    assert found[999] == pytest.approx(5e-5), "the peak at the end of 1,000 steps of warmup"
    assert found[499] == pytest.approx(2.5e-5)
    assert max(found) == found[999]
    assert found[-1] == pytest.approx(5e-6)
    assert all(later < earlier for earlier, later in pairwise(found[999:]))


def test_table_12():
    recipe = resolve("300m").pretrain
    assert (recipe.batch_size_sequences, recipe.warmup_steps, recipe.weight_decay) == (128, 2_000, 0.01)
    assert max(rates(recipe)) == pytest.approx(1e-4)


def test_adamw_has_the_papers_betas_and_predictors_a_rate_of_their_own():
    model = nn.ModuleDict({"ffn": nn.ModuleDict({"predictor": nn.Linear(2, 2), "gate": nn.Linear(2, 2)})})
    recipe = resolve("mistral-7b").pretrain
    optimizer = build_optimizer(model, recipe, PredictorConfig(rank=2, learning_rate=1e-3))
    backbone, predictors = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert backbone["betas"] == (0.9, 0.95)
    assert (backbone["weight_decay"], predictors["weight_decay"]) == (0.1, 0.0)
    assert predictors["lr"] == 1e-3
    assert set(map(id, predictors["params"])) == set(map(id, model["ffn"]["predictor"].parameters()))
