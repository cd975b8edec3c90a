"""Configurations of TurboSparse models: Mistral's and Mixtral's own, plus activation and predictors."""

from typing import Literal

from transformers import MistralConfig, MixtralConfig


class TurboSparseMistralConfig(MistralConfig):
    """A dense decoder whose FFNs may be dReLU and may carry activation predictors."""

    model_type = "turbosparse_mistral"

    activation: Literal["drelu", "swiglu"] = "drelu"
    predictor_rank: int | None = None
    """Width between a predictor's fc1 and fc2; none: no predictors."""
    predictor_threshold: float = 0.0
    """A neuron is predicted active where its logit exceeds this."""


class TurboSparseMixtralConfig(MixtralConfig):
    """A mixture-of-experts decoder whose experts may be dReLU and may carry activation predictors."""

    model_type = "turbosparse_mixtral"

    activation: Literal["drelu", "swiglu"] = "drelu"
    predictor_rank: int | None = None
    """Width between a predictor's fc1 and fc2; none: no predictors."""
    predictor_threshold: float = 0.0
    """A neuron is predicted active where its logit exceeds this."""
