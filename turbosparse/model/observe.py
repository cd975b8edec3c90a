"""Looking into FFNs while they run: sparsity, predictor training and statistics share this one hook.

A model that nobody observes pays one comparison with None per FFN.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class FFNActivations:
    """What one FFN (or one expert, on the tokens routed to it) did in one forward pass."""

    layer: int
    expert: int | None
    """None in a dense model."""
    combined: Tensor
    """h = activation(gate, up): [tokens, intermediate]."""
    predict: Callable[[], Tensor] | None
    """Computes the predictor's logits [tokens, intermediate], its input detached; None without one."""


Observer = Callable[[FFNActivations], None]


class ObservableFFN(nn.Module):
    """Base of the FFNs that can be observed."""

    observer: Observer | None = None


@contextmanager
def observe(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Calls `observer` for every FFN of `model` that runs inside the block."""
    ffns = [module for module in model.modules() if isinstance(module, ObservableFFN)]
    for ffn in ffns:
        ffn.observer = observer
    try:
        yield
    finally:
        for ffn in ffns:
            ffn.observer = None
