"""Sparse decoding inside a transformers model: `model.generate` works as ever, on FFNs that read less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.inference.ffn import DecodingFFN, Mode, RoutedFFN, Traffic, decoding_ffns
from turbosparse.inference.quantize import Quantization

MAX_BATCH = 8
"""Sequences decoded at once up to which neurons are skipped: more of them share few inactive ones."""


class SwappedFFN(nn.Module):
    """Stands in for a layer's FFN: single new tokens of a few sequences sparsely, all else densely."""

    def __init__(self, original: nn.Module, ffn: DecodingFFN | RoutedFFN) -> None:
        super().__init__()
        self.original = original
        self.ffn = ffn

    def forward(self, x: Tensor, *predictor_input: Tensor) -> Tensor:
        """Maps `x` [batch, seq, hidden] to the same shape."""
        batch, num_tokens, _ = x.shape
        if num_tokens > 1 or batch > MAX_BATCH:
            output: Tensor = self.original(x, *predictor_input)
            return output
        read = predictor_input[0] if predictor_input else x
        return self.ffn(x[:, 0], read[:, 0])[:, None]


@contextmanager
def decoding(
    model: PreTrainedModel, mode: Mode, quantization: Quantization = "none"
) -> Iterator[PreTrainedModel]:
    """Gives `model` FFNs that decode in `mode` inside the block.

    Raises:
        ModelError: The model is not dReLU, has no predictors for `predicted`, or there is no kernel for
            its dtype.
    """
    check_mode(model, mode)
    traffic = Traffic(torch.zeros(3, dtype=torch.int64, device=model.device))
    originals = [layer.mlp for layer in model.model.layers]
    ffns = decoding_ffns(model, mode, quantization, traffic)
    try:
        for layer, original, ffn in zip(model.model.layers, originals, ffns, strict=True):
            layer.mlp = SwappedFFN(original, ffn)
        yield model
    finally:
        for layer, original in zip(model.model.layers, originals, strict=True):
            layer.mlp = original


def check_mode(model: PreTrainedModel, mode: Mode) -> None:
    """Refuses a mode that the model can't decode in.

    Raises:
        ModelError: The model is not dReLU, or has no predictors for `predicted`.
    """
    if mode != "dense" and model.config.activation != "drelu":
        remedy = "convert it first (turbosparse convert), or use --mode dense"
        raise ModelError("activation", model.config.activation, f"drelu for mode {mode}", remedy)
    if mode == "predicted" and model.config.predictor_rank is None:
        remedy = "use --mode exact, or train predictors (turbosparse run finetune)"
        raise ModelError("mode", mode, "a model with activation predictors", remedy)
