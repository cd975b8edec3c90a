"""FFN modules that decode sparsely: they stand in for a model's own, and share its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.inference.sparse_ffn import sparse_ffn_exact, sparse_ffn_predicted
from turbosparse.model.mistral import GatedFFN
from turbosparse.model.mixtral import GatedExperts, TurboSparseMixtralBlock

Mode = Literal["dense", "exact", "predicted"]


class SparseFFN(nn.Module):
    """Computes single tokens sparsely, longer inputs (prefill) with the dense FFN."""

    def __init__(self, dense: GatedFFN, mode: Mode, threshold: float) -> None:
        super().__init__()
        self.dense = dense
        self.mode = mode
        self.threshold = threshold
        self.down_t = dense.down_proj.weight.t().contiguous()

    def forward(self, x: Tensor, predictor_input: Tensor) -> Tensor:
        """Maps `x` [..., hidden] to [..., hidden]."""
        if x.numel() != x.shape[-1]:
            output: Tensor = self.dense(x, predictor_input)
            return output
        weights = self.dense.gate_proj.weight, self.dense.up_proj.weight, self.down_t
        token = x.flatten()
        if self.mode == "exact":
            return sparse_ffn_exact(token, *weights).view_as(x)
        assert self.dense.predictor is not None
        neurons = (self.dense.predictor(predictor_input.flatten()) > self.threshold).nonzero().squeeze(1)
        return sparse_ffn_predicted(token, neurons, *weights).view_as(x)


class SparseExperts(nn.Module):
    """Computes single tokens sparsely within their routed experts, longer inputs densely."""

    def __init__(self, dense: GatedExperts, mode: Mode, threshold: float) -> None:
        super().__init__()
        self.dense = dense
        self.mode = mode
        self.threshold = threshold
        self.down_t = dense.down_proj.transpose(1, 2).contiguous()

    def forward(
        self,
        x: Tensor,
        routed_experts: Tensor,
        routing_weights: Tensor,
        predictor_input: Tensor | None = None,
    ) -> Tensor:
        """Returns the weighted sum over experts: [tokens, hidden], as GatedExperts does."""
        if len(x) != 1:
            output: Tensor = self.dense(x, routed_experts, routing_weights, predictor_input)
            return output
        read = x[0] if predictor_input is None else predictor_input[0]
        outputs = [self._expert(expert, x[0], read) for expert in routed_experts[0].tolist()]
        return routing_weights.to(x.dtype) @ torch.stack(outputs)

    def _expert(self, expert: int, token: Tensor, read: Tensor) -> Tensor:
        gate, up = self.dense.gate_up_proj[expert].chunk(2)
        if self.mode == "exact":
            return sparse_ffn_exact(token, gate, up, self.down_t[expert])
        assert self.dense.predictor is not None
        neurons = (self.dense.predictor(read, expert) > self.threshold).nonzero().squeeze(1)
        return sparse_ffn_predicted(token, neurons, gate, up, self.down_t[expert])


@contextmanager
def decoding(model: PreTrainedModel, mode: Mode) -> Iterator[PreTrainedModel]:
    """Gives `model` FFNs that decode in `mode` inside the block.

    Raises:
        ModelError: The model is not dReLU, or has no predictors for `predicted`.
    """
    check_mode(model, mode)
    if mode == "dense":
        yield model
        return
    originals = [layer.mlp for layer in model.model.layers]
    try:
        for number, layer in enumerate(model.model.layers):
            layer.mlp = _sparse(layer.mlp, mode, model.config.threshold_of(number))
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


def _sparse(ffn: nn.Module, mode: Mode, threshold: float) -> nn.Module:
    if isinstance(ffn, GatedFFN):
        return SparseFFN(ffn, mode, threshold)
    assert isinstance(ffn, TurboSparseMixtralBlock)
    return _RoutedSparseExperts(ffn, SparseExperts(ffn.experts, mode, threshold))


class _RoutedSparseExperts(nn.Module):
    """A Mixtral block whose experts decode sparsely."""

    def __init__(self, block: TurboSparseMixtralBlock, experts: SparseExperts) -> None:
        super().__init__()
        self.gate = block.gate
        self.experts = experts
        self.jitter_noise = block.jitter_noise
        self.train(block.training)

    forward = TurboSparseMixtralBlock.forward
