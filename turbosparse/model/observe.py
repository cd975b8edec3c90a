"""Looking into FFNs while they run: sparsity, predictor training and statistics share this one hook.

A model that nobody observes pays one comparison with None per FFN. Observing changes nothing in the
model's own computation, so a layer under activation checkpointing may be observed in its forward pass
and recomputed unobserved: each activation is seen once, and what an observer keeps for a loss of its
own stays in memory rather than being recomputed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


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
    tokens: Tensor | None = None
    """Which of the batch's tokens the rows are, [tokens], int64; None: all of them in order."""
    read: Callable[[], Tensor] | None = None
    """Returns what a predictor reads, or would: [tokens, hidden], detached; None where that is unknown."""


Observer = Callable[[FFNActivations], None]


class ObservableFFN(nn.Module):
    """Base of the FFNs that can be observed."""

    observer: Observer | None = None

    @property
    def is_observed(self) -> bool:
        """Whether an observer is waiting for what this forward pass does."""
        return self.observer is not None and not is_recomputation()

    def show(self, look: Callable[[], Iterable[FFNActivations]]) -> None:
        """Hands the observer, one by one, what `look` returns.

        Checkpointing counts the tensors that a forward pass saves and expects the recomputation to
        save the same. What `look` and the observer save is kept out of its
        sight: whatever is computed for an observer alone belongs into `look`.
        """
        assert self.observer is not None
        with saved_tensors_hooks(torch.Tensor.detach, lambda kept: kept):
            for activations in look():
                self.observer(activations)


def is_recomputation() -> bool:
    """Returns whether a forward pass runs inside a backward pass, as activation checkpointing's does."""
    # How torch.utils.checkpoint itself finds the backward pass that it runs in.
    return torch._C._current_graph_task_id() != -1


@contextmanager
def observe(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Calls `observer` for every FFN of `model` that runs inside the block, recomputations apart."""
    ffns = [module for module in model.modules() if isinstance(module, ObservableFFN)]
    for ffn in ffns:
        ffn.observer = observer
    try:
        yield
    finally:
        for ffn in ffns:
            ffn.observer = None
