"""How a champion goes on learning, and what a candidate must hold to take its place."""

from typing import Annotated, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, model_validator

from turbosparse.config.base import Config
from turbosparse.errors import ConfigError


class GateConfig(Config):
    """Bounds of a promotion. Champion and candidate are measured on the champion's held-back text.

    Without a champion the absolute bounds alone decide.
    """

    significance: Annotated[float, Gt(0), Lt(1)] = 0.05
    """Chance of refusing a candidate that is as good on every task: one-sided tests on paired items, Holm's
    correction over all tasks."""
    perplexity: Annotated[str, Field(pattern=r"^[^.]+\..+$")] = "local_text.word_perplexity"
    """The measured figure, as task.metric, that the perplexity bounds are about."""
    max_perplexity: Annotated[float, Gt(1)] | None = None
    """The candidate's perplexity at the most; none: no absolute bound."""
    max_perplexity_ratio: Annotated[float, Gt(0)] = 1.02
    """The candidate's perplexity over the champion's at the most."""
    min_active_ratio: Annotated[float, Ge(0), Le(1)] = 0.005
    """Share of FFN neurons that are active, at the least: below, layers have died."""
    max_active_ratio: Annotated[float, Gt(0), Le(1)] = 0.6
    """Share of FFN neurons that are active, at the most. Random dReLU layers have a quarter."""
    max_active_ratio_increase: Annotated[float, Ge(0), Le(1)] = 0.02
    """The candidate's active ratio less the champion's, at the most."""

    @model_validator(mode="after")
    def _has_room_between_bounds(self) -> Self:
        if self.min_active_ratio >= self.max_active_ratio:
            raise ConfigError(
                "min_active_ratio",
                self.min_active_ratio,
                f"less than max_active_ratio={self.max_active_ratio}",
                "lower it, or raise the other bound",
            )
        return self


class RetrainConfig(Config):
    """A retraining: the champion's recovered model reads on, and is tuned again.

    Reference: Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train Large Language
    Models (arXiv 2403.08763): re-warm, decay again, and replay what was read before.
    """

    steps_ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """Steps of continued pretraining, as a share of `pretrain.num_steps`."""
    learning_rate_ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    """The learning rate's peak after re-warming, as a share of `pretrain.learning_rate`."""
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of these steps over which the learning rate rises again."""
    needs_new_data: bool = True
    """Ends a run at once where corpora and instructions are those that the champion was made from."""
    lease_seconds: Annotated[float, Gt(0)] = 900.0
    """How long a run that died without a word keeps others from starting. A running one renews its lease
    three times in this time."""
    gate: GateConfig = GateConfig()
    """What decides about promotion."""
