"""Activations of a gated FFN: what becomes of the gate and up projections before down."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, linear, relu, silu

from .configuration import SparsityConfig

Activation = Callable[[Tensor, Tensor], Tensor]

# gradient where an input is above the threshold, zero elsewhere: relu's backward, in one pass
threshold_backward = torch.ops.aten.threshold_backward


def drelu(gate: Tensor, up: Tensor) -> Tensor:
    """Returns max(0, gate) * max(0, up), elementwise, in the inputs' dtype.

    Reference: Equation 2 of the paper.
    """
    return relu(gate) * relu(up)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) * up, elementwise: what Mistral and Mixtral were trained with."""
    return silu(gate) * up


def reglu(gate: Tensor, up: Tensor) -> Tensor:
    """Returns max(0, gate) * up, elementwise: ReLUfication as it was before the paper.

    Reference: Section 3.1 of the paper.
    """
    return relu(gate) * up


def shifted_relu(gate: Tensor, up: Tensor, shift: float = 1.0) -> Tensor:
    """Returns max(0, gate - shift) * up, elementwise: fewer gates pass than in reglu.

    Reference: Section 3.1 of the paper and its reference 42, which picks the shift by looking at the
    distribution of gates.
    """
    return relu(gate - shift) * up


ACTIVATIONS: dict[str, Activation] = {
    "drelu": drelu,
    "reglu": reglu,
    "shifted-relu": shifted_relu,
    "swiglu": swiglu,
}


def activation_of(config: SparsityConfig) -> Activation:
    """Returns the activation that a model's configuration names."""
    if config.activation == "shifted-relu":
        return partial(shifted_relu, shift=config.activation_shift)
    return ACTIVATIONS[config.activation]


def gated_linear(
    activation: Activation, gate: Tensor, up: Tensor, weight: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Returns activation(gate, up) times the down projection.

    dReLU keeps two tensors of gate's size for backward, relu(gate) and relu(up), where autograd would
    keep their product too (for SwiGLU four in all). Under torch.compile the compiler decides.

    Args:
        activation: One of ACTIVATIONS.
        gate, up: [..., intermediate].
        weight: [hidden, intermediate]; with offsets [experts, hidden, intermediate].
        offsets: [experts], int32: where each expert's rows of gate and up end, rows sorted by expert.
    """
    (weight,) = cast_as_linear_does(weight)
    # Compiled, the plain form is one kernel each way: 0.99 of SwiGLU's time and 1.00 of its memory, where
    # the operation below took 1.01 and 0.70 (1,024 x 2,816, CPU). Eager, it takes 1.00 and 0.54.
    is_fused_anyway = torch.compiler.is_compiling() and offsets is None
    # A wider gate, which autocast was told to leave alone, is linear's to cast.
    if activation is drelu and torch.is_grad_enabled() and gate.dtype == weight.dtype and not is_fused_anyway:
        output: Tensor = _DReLULinear.apply(gate, up, weight, offsets)[0]
        return output
    return _project(activation(gate, up), weight, offsets)


def cast_as_linear_does(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns the tensors in autocast's dtype, or as they are where autocast is off."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _project(combined: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
    if offsets is None:
        return linear(combined, weight)
    return grouped_mm(combined.to(weight.dtype), weight.transpose(1, 2), offs=offsets)


class _DReLULinear(torch.autograd.Function):
    """dReLU and the down projection behind it, as one operation that is differentiable once."""

    @staticmethod
    def forward(gate: Tensor, up: Tensor, weight: Tensor, offsets: Tensor | None) -> tuple[Tensor, ...]:
        open_gate, open_up = relu(gate), relu(up)
        return _project(open_gate * open_up, weight, offsets), open_gate, open_up

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, open_gate, open_up = output
        ctx.mark_non_differentiable(open_gate, open_up)
        ctx.set_materialize_grads(False)  # or backward would be given zeros for these two
        ctx.save_for_backward(open_gate, open_up, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        open_gate, open_up, weight, offsets = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        combined = (open_gate * open_up).flatten(0, -2)
        if offsets is None:
            grad_weight = rows.t() @ combined if ctx.needs_input_grad[2] else None
            # In the memory of `combined`, which has served.
            grad_combined = torch.mm(rows, weight, out=combined)
        else:
            grad_weight = grouped_mm(rows.t(), combined, offs=offsets) if ctx.needs_input_grad[2] else None
            grad_combined = grouped_mm(rows, weight, offs=offsets)
        grad_combined = grad_combined.view_as(open_gate)
        # relu's own derivative of the product's gradients, which are grad * up and grad * gate.
        grad_gate = threshold_backward(grad_combined, open_gate, 0).mul_(open_up)
        threshold_backward.grad_input(grad_combined, open_up, 0, grad_input=grad_combined)
        return grad_gate, grad_combined.mul_(open_gate), grad_weight, None
