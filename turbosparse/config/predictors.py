"""Activation predictors: how large they are, how they are trained, where they draw the line."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from turbosparse.config.base import Config
from turbosparse.errors import ConfigError

Rank = Annotated[int, Gt(0)]


class PostHocConfig(Config):
    """Predictors fitted one after the other on collected hidden states, the model frozen.

    Reference: Liu et al., Deja Vu (2023), Section 4 and its published recipe.
    """

    num_tokens: Annotated[int, Gt(0)] = 400_000
    """Tokens whose hidden states and labels are collected, held-back ones included."""
    held_back_ratio: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of them, the last ones, on which training decides when to stop."""
    disk_budget_bytes: Annotated[int, Ge(1_000_000)] = 20_000_000_000
    """Collected states on disk at the most; layers that do not fit wait for a pass of their own."""
    batch_size_tokens: Annotated[int, Gt(0)] = 1_024
    """Tokens per optimizer step."""
    num_epochs: Annotated[int, Gt(0)] = 20
    """Passes over the collected tokens at the most."""
    patience_epochs: Annotated[int, Gt(0)] = 5
    """Training stops after this many passes without a lower held-back loss; the best pass is kept."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """AdamW's decoupled weight decay."""


class ThresholdConfig(Config):
    """Which logits count as active: chosen on held-back text at the least predicted active ratio."""

    min_recall: Annotated[float, Gt(0), Lt(1)] = 0.96
    """Share of active neurons that must be found, in every layer, on the text that thresholds are chosen
    on. A point above the 0.95 that is wanted elsewhere: other text finds a little fewer."""
    max_perplexity_ratio: Annotated[float, Ge(1)] | None = 1.01
    """Perplexity with predictors over exact perplexity at the most; none: recall alone decides."""
    keep_zero: bool = False
    """Leaves thresholds at 0, the only one that the released layouts know; the curve is measured all the
    same."""
    num_tokens: Annotated[int, Gt(1)] = 4_096
    """Held-back tokens to choose on, and as many others to report on, at the most."""


class PredictorConfig(Config):
    """fc2(relu(fc1(x))) > threshold says which neurons will be active.

    Reference: Section 7 of the paper.
    """

    method: Literal["joint", "post_hoc"] = "joint"
    """`joint`: trained beside instruction tuning, on the same tokens; `post_hoc`: fitted afterwards
    to the tuned model, on the same conversations."""
    rank: Rank | tuple[Rank, ...] | None = None
    """Width between fc1 and fc2, one for all layers or one per layer; none: `parameter_ratio` says."""
    parameter_ratio: Annotated[float, Gt(0), Le(1)] | None = None
    """All predictors' parameters over all FFNs': ranks by layer are then chosen from each layer's
    measured sparsity and skew."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """AdamW's peak learning rate for the predictors alone."""
    positive_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of active neurons in the binary cross-entropy: above 1 it buys recall with size."""
    label_threshold: Annotated[float, Ge(0)] = 0.0
    """A neuron is labelled active where |h| exceeds this share of `label_scale`; 0: wherever h is not 0."""
    label_scale: Literal["rms", "max"] = "rms"
    """What `label_threshold` is a share of: the root mean square or the largest of the token's h."""
    mask_after_ratio: Annotated[float, Ge(0), Lt(1)] | None = None
    """Share of the steps after which the straight-through mask of the released models joins joint
    training, beside the cross-entropy; none: never. Before that it would cut blindly."""
    post_hoc: PostHocConfig = PostHocConfig()
    """How `method: post_hoc` collects and trains."""
    threshold: ThresholdConfig = ThresholdConfig()
    """How thresholds are chosen."""

    @model_validator(mode="after")
    def _has_one_size(self) -> Self:
        if (self.rank is None) == (self.parameter_ratio is None):
            given = {"rank": self.rank, "parameter_ratio": self.parameter_ratio}
            raise ConfigError(
                "rank", given, "either rank or parameter_ratio", "give one, set the other to null"
            )
        return self
