"""Steps, tokens and hours of the training stages. Plain arithmetic: every run asks it before it starts."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from turbosparse.analysis.flops import Decoder, training_flops_per_token
from turbosparse.config import FinetuneConfig, PipelineConfig, Placement, TrainConfig

StageName = Literal["base", "pretrain", "finetune"]


@dataclass(frozen=True)
class StageRecipe:
    """A training stage of a run."""

    name: StageName
    recipe: TrainConfig
    sequence_length: int
    trains_predictors: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens over all steps."""
        return self.recipe.num_steps * self.recipe.batch_size_sequences * self.sequence_length


@dataclass(frozen=True)
class Schedule:
    """How long a stage takes."""

    num_steps: int
    num_tokens: int
    flops_per_token: int
    """Forward and backward, as `turbosparse.analysis.flops` counts."""
    seconds_per_step: float
    hours: float
    gpu_hours: float


def training_stages(config: PipelineConfig) -> list[StageRecipe]:
    """Returns the training stages of a run in their order."""
    base, finetune = config.convert.base, config.finetune
    stages = [] if base is None else [StageRecipe("base", base, config.data.sequence_length)]
    stages.append(StageRecipe("pretrain", config.pretrain, config.data.sequence_length))
    is_joint = finetune.predictor.method == "joint"
    return [*stages, StageRecipe("finetune", finetune, finetune.sequence_length, is_joint)]


def schedule(stage: StageRecipe, model: Decoder, placement: Placement) -> Schedule:
    """Returns how long a stage takes on the placement's ranks at the stated share of their stated peak."""
    flops_per_token = _mean_flops_per_token(stage, model)
    flops_per_second = placement.gpu_peak_teraflops * 1e12 * placement.expected_mfu_ratio
    gpu_seconds = stage.num_tokens * flops_per_token / flops_per_second
    seconds, num_steps = gpu_seconds / placement.num_ranks_total, stage.recipe.num_steps
    return Schedule(
        num_steps=num_steps,
        num_tokens=stage.num_tokens,
        flops_per_token=flops_per_token,
        seconds_per_step=seconds / num_steps,
        hours=seconds / 3_600,
        gpu_hours=gpu_seconds / 3_600,
    )


def _mean_flops_per_token(stage: StageRecipe, model: Decoder) -> int:
    whole, warmup = training_flops_per_token(model, stage.sequence_length), stage.recipe.sequence_warmup
    if warmup is None:
        return whole
    saved = whole - training_flops_per_token(model, warmup.length_tokens)
    return round(whole - warmup.share_of_steps * saved)


def predictor_rank(config: FinetuneConfig, hidden_size: int, intermediate_size: int) -> int | list[int]:
    """Returns the predictors' rank, or their mean rank where layers are yet to be measured."""
    predictor = config.predictor
    if predictor.rank is not None:
        return list(predictor.rank) if isinstance(predictor.rank, tuple) else predictor.rank
    assert predictor.parameter_ratio is not None
    budget = predictor.parameter_ratio * 3 * hidden_size * intermediate_size
    return max(1, round(budget / (hidden_size + intermediate_size)))


def as_decoder(fields: dict[str, Any], rank: int | list[int] | None) -> Any:
    """Returns the fields of a transformers configuration as what operations are counted from.

    Importing transformers for its own class would take longer than everything else here.
    """
    heads = fields["num_attention_heads"]
    optional = {"num_key_value_heads": heads, "head_dim": None, "sliding_window": None}
    return SimpleNamespace(
        **optional | fields, rank_of=lambda layer: rank[layer] if isinstance(rank, list) else rank
    )
