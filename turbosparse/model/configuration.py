"""Configurations of TurboSparse models: Mistral's and Mixtral's own, plus activation and predictors."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import MistralConfig, MixtralConfig, PreTrainedConfig


class SparsityConfig(PreTrainedConfig):
    """What both architectures add. One value serves all layers; a list has one value per layer."""

    activation: Literal["drelu", "reglu", "shifted-relu", "swiglu"] = "drelu"
    activation_shift: float | int = 1.0
    """What shifted-relu subtracts from the gate; the other activations ignore it."""
    predictor_rank: int | list[int] | None = None
    """Width between a predictor's fc1 and fc2; none: no predictors."""
    predictor_input: Literal["pre_norm", "post_norm"] = "pre_norm"
    """Whether predictors read the residual stream before the FFN's RMSNorm, or what the FFN reads."""
    predictor_threshold: float | int | list[float | int] = 0.0
    """A neuron is predicted active where its logit exceeds this."""
    predictor_global_threshold: float | int | None = None
    """One threshold for all layers, for engines that take no more (PowerInfer); none: not chosen."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Checks the values.

        Raises:
            ValueError: A list has not one value per layer, or a rank is not above zero.
        """
        super().__post_init__(**kwargs)
        for name in ("predictor_rank", "predictor_threshold"):
            self._check_one_per_layer(name)
        ranks = self.predictor_rank if isinstance(self.predictor_rank, list) else [self.predictor_rank]
        if any(rank is not None and rank <= 0 for rank in ranks):
            raise ValueError(f"predictor_rank: {self.predictor_rank!r}; expected ranks above zero")

    def rank_of(self, layer: int) -> int | None:
        """Returns the rank of a layer's predictors; None: it has none."""
        rank = self.predictor_rank
        return rank[layer] if isinstance(rank, list) else rank

    def threshold_of(self, layer: int) -> float:
        """Returns the logit above which a layer's neuron is predicted active."""
        threshold = self.predictor_threshold
        return threshold[layer] if isinstance(threshold, list) else threshold

    def _check_one_per_layer(self, name: str) -> None:
        values, num_layers = getattr(self, name), self.num_hidden_layers
        if isinstance(values, list) and len(values) != num_layers:
            expected = f"one for each of num_hidden_layers={num_layers}"
            raise ValueError(f"{name}: a list of {len(values)} values; expected {expected}")


@strict
class TurboSparseMistralConfig(MistralConfig, SparsityConfig):
    """A dense decoder with a choice of activation, whose FFNs may carry activation predictors."""

    model_type = "turbosparse_mistral"


@strict
class TurboSparseMixtralConfig(MixtralConfig, SparsityConfig):
    """A mixture-of-experts decoder with a choice of activation, whose experts may carry predictors."""

    model_type = "turbosparse_mixtral"

    predictor_input: Literal["pre_norm", "post_norm"] = "post_norm"
