"""Activated parameters per token at the paper's sparsity, from the architectures alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, MistralConfig, MixtralConfig, PreTrainedConfig

from turbosparse.analysis.activity import FFNActivity
from turbosparse.analysis.parameters import ActivatedParameters, activated_parameters, predictor_parameters
from turbosparse.reproduce.common import Reproduction, Request


@dataclass(frozen=True)
class PaperModel:
    """A model of Table 6 and what the paper says of it."""

    name: str
    config: PreTrainedConfig
    active_ratio: float
    """Neurons above zero in an FFN or routed expert, mean over layers (Section 6.2)."""
    predictor_ranks: Sequence[int]
    """By layer."""
    table_billions: float
    """Activated parameters in Table 6 and the abstract."""
    text_billions: float
    """Activated parameters in Section 6.1's words on Table 6."""


MODELS = (
    PaperModel(
        "TurboSparse-Mistral-7B",
        MistralConfig(vocab_size=32_000),
        active_ratio=0.10,
        # The released files' size gives the sum of the ranks, not each: 743M parameters over 32 layers.
        predictor_ranks=[1_260] * 32,
        table_billions=2.5,
        text_billions=3.0,
    ),
    PaperModel(
        "TurboSparse-Mixtral-47B",
        MixtralConfig(vocab_size=32_000),
        active_ratio=0.15,
        predictor_ranks=[896] * 2 + [1_024] * 11 + [1_088] + [1_024] * 13 + [1_088] * 4 + [1_344],
        table_billions=4.3,
        text_billions=4.5,
    ),
)


def reproduce(request: Request) -> Reproduction:  # noqa: ARG001 - takes no model: shapes decide
    """Counts the parameters that a token activates in the paper's two models, in several ways.

    Reference: "# Activate Params" of Table 6, Sections 6.1 and 6.2 of the paper.
    """
    measured: dict[str, Any] = {}
    rows: list[list[str]] = []
    for model in MODELS:
        parts = paper_parts(model)
        counted = countings(model, parts)
        measured[model.name] = {"parts": parts.as_json(), "countings": counted}
        rows += [_row(model, name, value) for name, value in counted.items()]
    return Reproduction(
        name="activated",
        title="Activated parameters per token, at the paper's sparsity",
        header=["model", "counted", "parameters", "against the table", "against the text"],
        rows=rows,
        measured=measured,
        paper={model.name: {"table": model.table_billions, "text": model.text_billions} for model in MODELS},
        notes=[
            "The paper gives two figures for each model and does not say what they count. Its sparsity is "
            "applied to the published architectures: 10% of the neurons (Mistral), 15% in each of 2 routed "
            "experts (Mixtral).",
            "Predictor ranks are those of the released Mixtral; for Mistral 1,260 in every layer, the mean "
            "that the size of the released files implies.",
            "`turbosparse sparsity` counts attention, active FFN rows, router, routed experts' predictors, "
            "one row of the input embedding and the whole output projection: what a machine reads per token.",
        ],
    )


def paper_parts(model: PaperModel) -> ActivatedParameters:
    """Counts a paper's model as `turbosparse sparsity` would, without any weight."""
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(model.config)
    ratio = model.active_ratio
    layers = [
        FFNActivity(layer, 1 - ratio, ratio, None, None, None)
        for layer in range(model.config.num_hidden_layers)
    ]
    parts = activated_parameters(shapes, layers)
    predictor = predictor_parameters(
        model.config.hidden_size,
        model.config.intermediate_size,
        model.predictor_ranks,
        getattr(model.config, "num_experts_per_tok", 1),
    )
    return ActivatedParameters(parts.attention, parts.ffn, parts.router, predictor, parts.embeddings)


def countings(model: PaperModel, parts: ActivatedParameters) -> dict[str, int]:
    """Returns ways of counting that the paper may have meant, in parameters."""
    embeddings = 2 * model.config.vocab_size * model.config.hidden_size
    core = parts.attention + parts.ffn + parts.router
    return {
        "attention + active FFN": core,
        "attention + active FFN + both embeddings": core + embeddings,
        "attention + active FFN + predictors": core + parts.predictor,
        "read per token (turbosparse sparsity)": parts.total,
        "attention + active FFN + predictors + both embeddings": core + parts.predictor + embeddings,
    }


def _row(model: PaperModel, name: str, value: int) -> list[str]:
    gaps = [value / (1e9 * stated) - 1 for stated in (model.table_billions, model.text_billions)]
    stated = (model.table_billions, model.text_billions)
    shown = [f"{gap:+.1%} of {figure}B" for gap, figure in zip(gaps, stated, strict=True)]
    return [model.name, name, f"{value / 1e9:.3f}B", *shown]
