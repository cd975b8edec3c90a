"""Activations of a gated FFN: what becomes of the gate and up projections before down."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import relu, silu


def drelu(gate: Tensor, up: Tensor) -> Tensor:
    """Returns max(0, gate) * max(0, up), elementwise, in the inputs' dtype.

    Reference: Equation 2 of the paper.
    """
    return relu(gate) * relu(up)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) * up, elementwise: what Mistral and Mixtral were trained with."""
    return silu(gate) * up


ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"drelu": drelu, "swiglu": swiglu}
