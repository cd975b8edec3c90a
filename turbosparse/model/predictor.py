"""Activation predictors: a low-rank guess, made before the FFN runs, of which neurons will be active.

Shapes and names are those of the released models: fc1 [rank, hidden], fc2 [intermediate, rank],
no biases, logits = fc2(relu(fc1(x))).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu


class Predictor(nn.Module):
    """The predictor of one FFN."""

    def __init__(self, hidden_size: int, intermediate_size: int, rank: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, rank, bias=False)
        self.fc2 = nn.Linear(rank, intermediate_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [..., intermediate] for `x` [..., hidden]."""
        logits: Tensor = self.fc2(relu(self.fc1(x)))
        return logits


class ExpertPredictors(nn.Module):
    """The predictors of all experts of a layer, stacked.

    One parameter for all experts, not one module each: under FSDP2 every rank must touch the same
    parameters at every step, wherever its tokens are routed.
    """

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int, rank: int) -> None:
        super().__init__()
        self.fc1 = nn.Parameter(torch.empty(num_experts, rank, hidden_size))
        self.fc2 = nn.Parameter(torch.empty(num_experts, intermediate_size, rank))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Returns one expert's logits [..., intermediate] for `x` [..., hidden]."""
        return linear(relu(linear(x, self.fc1[expert])), self.fc2[expert])
