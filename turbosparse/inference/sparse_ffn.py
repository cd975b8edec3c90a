"""A gated FFN for one token that reads only what it needs: the slow, obvious reference.

`down_t` is the down projection transposed, so that a neuron's weights lie in one row of each of
gate, up and down_t.
"""

import torch
from torch import Tensor
from torch.nn.functional import relu


def sparse_ffn_exact(x: Tensor, gate: Tensor, up: Tensor, down_t: Tensor) -> Tensor:
    """Returns the dReLU FFN's output, equal to the dense one up to rounding.

    The gate is computed whole; up is read only where the gate is above zero, down only where the
    product is: what is not read is multiplied by zero.

    Args:
        x: [hidden].
        gate, up, down_t: [intermediate, hidden].
    """
    gated = relu(gate @ x)
    return _rest(x, gated, gated.nonzero().squeeze(1), up, down_t)


def sparse_ffn_predicted(x: Tensor, neurons: Tensor, gate: Tensor, up: Tensor, down_t: Tensor) -> Tensor:
    """Returns the dReLU FFN's output as if all but the given neurons were inactive.

    Args:
        x: [hidden].
        neurons: [predicted], int64: the neurons to compute.
        gate, up, down_t: [intermediate, hidden].
    """
    gated = torch.zeros(len(gate), dtype=x.dtype, device=x.device)
    gated[neurons] = relu(gate[neurons] @ x)
    return _rest(x, gated, gated.nonzero().squeeze(1), up, down_t)


def _rest(x: Tensor, gated: Tensor, neurons: Tensor, up: Tensor, down_t: Tensor) -> Tensor:
    combined = gated[neurons] * relu(up[neurons] @ x)
    active = combined > 0
    return combined[active] @ down_t[neurons[active]]
