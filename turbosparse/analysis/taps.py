"""Reading, and changing, what gated FFNs compute between their projections: ours and transformers' own.

Inside `tapped`, every gated FFN runs a plain forward that hands out Gate(x), Up(x) and Combined(x) of
Equation 1. Outside, nothing of ours is on the model: it costs nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu, silu
from transformers import PreTrainedModel
from transformers.integrations.moe import _default_apply_gate

from turbosparse.errors import ModelError
from turbosparse.model.observe import ObservableFFN

Expert = int | Literal["shared"] | None
"""A routed expert's number, the shared expert beside them, or a dense layer's only FFN."""


@dataclass(frozen=True)
class GatedActivations:
    """What one FFN (or one expert, on the tokens routed to it) computed in one forward pass."""

    layer: int
    expert: Expert
    gate: Tensor
    """F_act(x W_gate): [tokens, intermediate]."""
    up: Tensor
    """x W_up, rectified under dReLU: [tokens, intermediate]."""
    combined: Tensor
    """gate * up: [tokens, intermediate]."""
    predict: Callable[[], Tensor] | None
    """Computes the predictor's logits [tokens, intermediate], its input detached; None without one."""
    tokens: Tensor | None = None
    """Which of the batch's tokens the rows are, [tokens], int64; None: all of them in order."""


Tap = Callable[[GatedActivations], Tensor | None]
"""Takes what an FFN computed; returns what the down projection is to read instead, None for no change."""

Activate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes Gate(x) and Up(x) of the two projections' outputs."""


@dataclass(frozen=True)
class GatedUnit:
    """One gated FFN of a model, or the stacked experts of one layer."""

    layer: int
    expert: Literal["shared"] | None
    """None for a layer's only FFN and for a stack, whose experts go by number."""
    module: Any
    activate: Activate
    num_routed: int | None
    """Experts that a token goes through; None where there is no router."""

    @property
    def intermediate_size(self) -> int:
        """Neurons of the FFN, or of one expert."""
        weight = self.module.down_proj if self.num_routed else self.module.down_proj.weight
        return int(weight.shape[-1])

    @property
    def neurons_per_token(self) -> int:
        """Neurons that a token computes where none is skipped."""
        return self.intermediate_size * (self.num_routed or 1)


def gated_units(model: PreTrainedModel) -> list[GatedUnit]:
    """Returns every gated FFN of `model`, in the order of its layers.

    Llama, Mistral, Mixtral, Qwen-MoE and DeepSeek-MoE of transformers are known, and our own classes.

    Raises:
        ModelError: A layer has no FFN of a known form.
    """
    units: list[GatedUnit] = []
    for layer, block in enumerate(model.model.layers):
        found = [
            _unit(model.config, layer, module, shared="shared" in name)
            for name, module in block.named_modules()
            if _is_dense(module) or _is_stack(module)
        ]
        if not found:
            raise ModelError(
                "model",
                type(model).__name__,
                f"a gated FFN (gate, up and down projection) in layer {layer}",
                "give a Llama, Mistral, Mixtral, Qwen-MoE or DeepSeek-MoE model",
            )
        units += found
    return units


@contextmanager
def tapped(model: PreTrainedModel, tap: Tap) -> Iterator[None]:
    """Calls `tap` for every gated FFN of `model` that runs inside the block.

    Experts are called one by one on the tokens routed to them, whatever implementation they have
    otherwise, so the model's own output may differ in the last bits inside the block.
    """
    units = gated_units(model)
    before = [vars(unit.module).get("forward") for unit in units]
    for unit in units:
        unit.module.forward = _stack_forward(unit, tap) if unit.num_routed else _dense_forward(unit, tap)
    try:
        yield
    finally:
        for unit, forward in zip(units, before, strict=True):
            del unit.module.forward
            if forward is not None:
                unit.module.forward = forward


def _is_dense(module: nn.Module) -> bool:
    names = ("gate_proj", "up_proj", "down_proj")
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def _is_stack(module: nn.Module) -> bool:
    weights = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    return all(isinstance(weight, nn.Parameter) and weight.dim() == 3 for weight in weights)


def _unit(config: Any, layer: int, module: Any, shared: bool) -> GatedUnit:
    is_ours = isinstance(module, ObservableFFN)
    activate = _our_activation(config) if is_ours else _transformers_activation(module)
    if _is_dense(module):
        return GatedUnit(layer, "shared" if shared else None, module, activate, None)
    if not is_ours:
        _check_plain_stack(module)
    return GatedUnit(layer, None, module, activate, config.num_experts_per_tok)


def _transformers_activation(module: Any) -> Activate:
    return lambda gate, up: (module.act_fn(gate), up)


def _our_activation(config: Any) -> Activate:
    known: dict[str, Activate] = {
        "swiglu": lambda gate, up: (silu(gate), up),
        "reglu": lambda gate, up: (relu(gate), up),
        "shifted-relu": lambda gate, up: (relu(gate - config.activation_shift), up),
        "drelu": lambda gate, up: (relu(gate), relu(up)),
    }
    return known[config.activation]


def _check_plain_stack(module: Any) -> None:
    """Refuses experts with biases, norms, transposed weights or a gating formula of their own."""
    oddities = [
        name for name in ("is_transposed", "has_bias", "has_post_expert_norm") if getattr(module, name)
    ]
    if type(module)._apply_gate is not _default_apply_gate:
        oddities.append("_apply_gate")
    if oddities or not module.has_gate:
        raise ModelError(
            "experts", type(module).__name__, f"plain gated experts, without {oddities}", "give another model"
        )


def _dense_forward(unit: GatedUnit, tap: Tap) -> Callable[..., Tensor]:
    ffn = unit.module
    predictor = getattr(ffn, "predictor", None)

    def forward(x: Tensor, predictor_input: Tensor | None = None) -> Tensor:
        gate, up = unit.activate(ffn.gate_proj(x), ffn.up_proj(x))
        combined = gate * up
        read = x if predictor_input is None else predictor_input
        predict = None if predictor is None else (lambda: predictor(read.detach().flatten(0, -2)))
        rows = gate.flatten(0, -2), up.flatten(0, -2), combined.flatten(0, -2)
        changed = tap(GatedActivations(unit.layer, unit.expert, *rows, predict))
        output: Tensor = ffn.down_proj(combined if changed is None else changed.view_as(combined))
        return output

    return forward


def _stack_forward(unit: GatedUnit, tap: Tap) -> Callable[..., Tensor]:
    stack = unit.module
    predictor = getattr(stack, "predictor", None)

    def run_expert(expert: int, x: Tensor, read: Tensor, token: Tensor) -> Tensor:
        gate, up = unit.activate(*linear(x[token], stack.gate_up_proj[expert]).chunk(2, dim=-1))
        combined = gate * up
        predict = None if predictor is None else (lambda: predictor(read.detach()[token], expert))
        changed = tap(GatedActivations(unit.layer, expert, gate, up, combined, predict, token))
        return linear(combined if changed is None else changed, stack.down_proj[expert])

    def forward(
        x: Tensor,
        routed_experts: Tensor,
        routing_weights: Tensor,
        predictor_input: Tensor | None = None,
    ) -> Tensor:
        output = torch.zeros_like(x)
        read = x if predictor_input is None else predictor_input
        for expert in routed_experts.unique().tolist():
            token, choice = torch.where(routed_experts == expert)
            weighted = run_expert(expert, x, read, token) * routing_weights[token, choice, None]
            output.index_add_(0, token, weighted.to(output.dtype))
        return output

    return forward
