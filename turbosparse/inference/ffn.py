"""The FFNs of a model as decoding computes them: a few tokens at a time, reading only what it must."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from turbosparse.inference.memory import use_huge_pages
from turbosparse.inference.operators import linear, predict, route, sparse_ffn
from turbosparse.inference.quantize import Quantization, Weight, quantize
from turbosparse.model.drelu import Activation
from turbosparse.model.mistral import GatedFFN
from turbosparse.model.mixtral import GatedExperts, TurboSparseMixtralBlock

Mode = Literal["dense", "exact", "predicted"]
CACHE_LINE_BYTES = 64


@dataclass
class Traffic:
    """What decoding has read since it was last reset."""

    rows: Tensor
    """Rows of gate, up and down: [3]."""
    weight_bytes: int = 0
    """All other weights."""
    cache_bytes: int = 0
    """Keys and values."""
    num_neurons: int = 0
    """Neurons of all FFNs that ran: what dense FFNs would have read of each matrix."""

    def reset(self) -> None:
        """Forgets what was read."""
        self.rows.zero_()
        self.weight_bytes = self.cache_bytes = self.num_neurons = 0


@dataclass(frozen=True)
class PredictorWeights:
    """A predictor, and the logit above which it takes a neuron to be active."""

    fc1: Weight
    fc2: Weight
    threshold: float

    @property
    def num_bytes(self) -> int:
        """Bytes that one prediction reads."""
        return self.fc1.num_bytes + self.fc2.num_bytes

    def predict(self, x: Tensor) -> Tensor:
        """Returns which neurons are predicted active: [tokens, intermediate], for `x` [tokens, hidden]."""
        return predict(x, self.fc1, self.fc2, self.threshold)


@dataclass(frozen=True)
class DecodingFFN:
    """One gated FFN, or one expert."""

    gate: Weight
    up: Weight
    down: Weight
    """The down projection [hidden, intermediate] where the FFN is dense, else transposed."""
    activation: Activation
    is_sparse: bool
    predictor: PredictorWeights | None
    traffic: Traffic

    def __call__(self, x: Tensor, read: Tensor) -> Tensor:
        """Maps `x` [tokens, hidden] to the same shape; the predictor reads `read` [tokens, hidden]."""
        num_neurons = len(self.gate.values)
        self.traffic.num_neurons += num_neurons
        if not self.is_sparse:
            self.traffic.rows += num_neurons
            return linear(self.activation(linear(x, self.gate), linear(x, self.up)), self.down)
        active = None
        if self.predictor is not None:
            active = self.predictor.predict(read)
            self.traffic.weight_bytes += self.predictor.num_bytes
        return sparse_ffn(x, self.gate, self.up, self.down, active, self.traffic.rows)


@dataclass(frozen=True)
class RoutedFFN:
    """A Mixtral layer's router and experts."""

    router: Weight
    num_chosen: int
    """Experts per token."""
    experts: list[DecodingFFN]

    def __call__(self, x: Tensor, read: Tensor) -> Tensor:
        """Maps `x` [tokens, hidden] to each token's weighted sum over its experts."""
        weights, routed = route(x, self.router, self.num_chosen)
        if len(x) == 1:
            return self._one_token(x, read, weights[0].tolist(), routed[0].tolist())
        output = torch.zeros_like(x)
        for expert in sorted({expert for token in routed.tolist() for expert in token}):
            chosen = routed == expert
            token = chosen.any(dim=1).nonzero().squeeze(1)
            share = (weights * chosen).sum(dim=1, keepdim=True)[token]
            expert_output = self.experts[expert](x[token], read[token])
            output.index_add_(0, token, (expert_output * share).to(x.dtype))
        return output

    def _one_token(self, x: Tensor, read: Tensor, weights: list[float], experts: list[int]) -> Tensor:
        # Picking tokens took a fifteenth of two experts' time.
        (weight, expert), *others = zip(weights, experts, strict=True)
        output = self.experts[expert](x, read).mul_(weight)
        for weight, expert in others:
            output.add_(self.experts[expert](x, read), alpha=weight)
        return output


def decoding_ffns(
    model: PreTrainedModel, mode: Mode, quantization: Quantization, traffic: Traffic
) -> list[DecodingFFN | RoutedFFN]:
    """Returns the FFN of each of a model's layers as `mode` computes it.

    Raises:
        ModelError: There is no kernel for the model's dtype, or none for its widths in int4.
    """
    prepare = Preparation(mode, quantization, traffic)
    return [
        prepare.layer(layer.mlp, model.config.threshold_of(number))
        for number, layer in enumerate(model.model.layers)
    ]


@dataclass(frozen=True)
class Preparation:
    """Makes decoding FFNs of a model's own, whose memory they share unless they are quantised."""

    mode: Mode
    quantization: Quantization
    traffic: Traffic

    def layer(self, ffn: torch.nn.Module, threshold: float) -> DecodingFFN | RoutedFFN:
        """Returns one layer's FFN, a router and its experts included."""
        if isinstance(ffn, TurboSparseMixtralBlock):
            experts = [
                self._expert(ffn.experts, number, threshold) for number in range(ffn.experts.num_experts)
            ]
            return RoutedFFN(prepared(ffn.gate.weight, "none"), ffn.gate.top_k, experts)
        assert isinstance(ffn, GatedFFN)
        weights = ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight
        predictor = None
        if ffn.predictor is not None:
            predictor = self.predictor(ffn.predictor.fc1.weight, ffn.predictor.fc2.weight, threshold)
        return self._ffn(weights, ffn.activation, predictor)

    def _expert(self, experts: GatedExperts, number: int, threshold: float) -> DecodingFFN:
        gate, up = experts.gate_up_proj[number].chunk(2)
        predictor = None
        if experts.predictor is not None:
            predictor = self.predictor(
                experts.predictor.fc1[number], experts.predictor.fc2[number], threshold
            )
        return self._ffn((gate, up, experts.down_proj[number]), experts.activation, predictor)

    def predictor(self, fc1: Tensor, fc2: Tensor, threshold: float) -> PredictorWeights | None:
        """Returns a predictor of fc1 [rank, hidden] and fc2 [intermediate, rank]; None in other modes."""
        if self.mode != "predicted":
            return None
        # Rows that are not whole cache lines are read at 10 GB/s instead of 19: zeros fill them up.
        padding = -len(fc1) % CACHE_LINE_BYTES if len(fc1) > CACHE_LINE_BYTES else 0
        fc1, fc2 = pad(fc1.detach(), (0, 0, 0, padding)), pad(fc2.detach(), (0, padding))
        # int8 whatever the FFN is in: at rank 512 a bf16 predictor reads as much as the sparse FFN.
        return PredictorWeights(prepared(fc1, "int8"), prepared(fc2, "int8"), threshold)

    def _ffn(
        self,
        weights: tuple[Tensor, Tensor, Tensor],
        activation: Activation,
        predictor: PredictorWeights | None,
    ) -> DecodingFFN:
        gate, up, down = weights
        is_sparse = self.mode != "dense"
        down = down.detach().t().contiguous() if is_sparse else down
        gate_rows, up_rows, down_rows = (prepared(weight, self.quantization) for weight in (gate, up, down))
        return DecodingFFN(gate_rows, up_rows, down_rows, activation, is_sparse, predictor, self.traffic)


@torch.no_grad()
def prepared(weight: Tensor, quantization: Quantization) -> Weight:
    """Returns a weight [rows, columns] ready to be read by rows."""
    ready = quantize(weight.detach(), quantization)
    use_huge_pages(ready.values)
    return ready
