"""What a predictor learns from: labels from true activations, and a weighted binary cross-entropy."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

LabelScale = Literal["rms", "max"]
# A chunk's intermediate results stay in a core's cache; a GPU wants large kernels instead.
CHUNK_ELEMENTS = {"cpu": 1 << 17, "other": 1 << 26}


def active_labels(combined: Tensor, threshold: float = 0.0, scale: LabelScale = "rms") -> Tensor:
    """Returns which neurons count as active: [tokens, intermediate], bool.

    Args:
        combined: h of one FFN, [tokens, intermediate].
        threshold: share of the token's own `scale` that |h| must exceed; 0 labels every h that is not
            zero, which under dReLU is every h above zero.
        scale: the root mean square or the largest magnitude of the token's h.
    """
    if threshold == 0.0:
        return combined != 0
    size = combined.float().abs()
    if scale == "max":
        return size > threshold * size.amax(-1, keepdim=True)
    return size > threshold * size.square().mean(-1, keepdim=True).sqrt()


def weighted_cross_entropy(
    logits: Tensor, active: Tensor, positive_weight: float = 1.0, row_weight: Tensor | None = None
) -> Tensor:
    """Returns the summed binary cross-entropy, a float32 scalar that is differentiable once.

    Loss and gradient come out of one pass in chunks; for backward only the gradient is kept, in the
    logits' dtype, where autograd's own composition keeps several tensors of that size.

    Args:
        logits: [tokens, intermediate].
        active: the labels, [tokens, intermediate], bool.
        positive_weight: weight of active neurons against the others'.
        row_weight: weight of each token, [tokens]; None: all count once.
    """
    total: Tensor = _WeightedCrossEntropy.apply(logits, active, positive_weight, row_weight)
    return total


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, active: Tensor, positive_weight: float, row_weight: Tensor | None
    ) -> Tensor:
        gradient = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float32)
        for rows in _chunks(logits):
            weight = None if row_weight is None else row_weight[rows, None]
            loss, gradient[rows] = _loss_and_gradient(logits[rows], active[rows], positive_weight, weight)
            total += loss
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None


def _loss_and_gradient(
    logits: Tensor, active: Tensor, positive_weight: float, row_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    # With s = -1 where active and 1 elsewhere, the loss is softplus(s x), its slope s sigmoid(s x).
    sign = torch.where(active, -1.0, 1.0)
    signed = logits.float().mul_(sign) if logits.dtype != torch.float32 else logits * sign
    weight = None if positive_weight == 1.0 else torch.where(active, positive_weight, 1.0)
    if row_weight is not None:
        weight = row_weight.float() if weight is None else weight.mul_(row_weight)
    loss, slope = softplus(signed), signed.sigmoid_().mul_(sign)
    if weight is None:
        return loss.sum(), slope
    return loss.mul_(weight).sum(), slope.mul_(weight)


def _chunks(rows: Tensor) -> Iterator[slice]:
    elements = CHUNK_ELEMENTS["cpu" if rows.device.type == "cpu" else "other"]
    size = max(1, elements // max(1, rows.shape[-1]))
    return (slice(start, start + size) for start in range(0, len(rows), size))
