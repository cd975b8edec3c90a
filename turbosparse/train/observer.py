"""How predictors train beside the model: their loss in every step, their hits where a step is measured."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from turbosparse.analysis.taps import GatedActivations, tapped
from turbosparse.config import PredictorConfig
from turbosparse.model.observe import FFNActivations, Observer, is_recomputation, observe
from turbosparse.predictors.loss import active_labels, weighted_cross_entropy
from turbosparse.predictors.masks import straight_through


class TrainingObserver:
    """Collects one step's predictor loss and, where it is asked to, how well predictors guess.

    The loss is a binary cross-entropy against the true activations, its inputs detached, so predictors
    follow the model without steering it. The released models train through a straight-through mask
    on the language-model loss; alone, that keeps everything: an inactive neuron's mask gets a
    gradient of exactly zero, so nothing ever tells a predictor to let it go. Here the mask joins late,
    if at all, and the cross-entropy stays.
    """

    def __init__(self, config: PredictorConfig | None) -> None:
        self._config = config
        self._is_real: Tensor | None = None
        self._masks: ExitStack | None = None
        self._look: Observer | None = None
        self.start_step()

    def start_step(self, progress_ratio: float = 0.0, counts: bool = True) -> None:
        """Forgets the step before.

        Args:
            progress_ratio: steps done over all steps, in [0, 1): it decides whether the mask has joined.
            counts: whether hits are counted in this step; that reads every logit once more.
        """
        after = None if self._config is None else self._config.mask_after_ratio
        self.is_masked = after is not None and progress_ratio >= after
        if not self.is_masked:
            self.unmask()
        self._counts_hits = counts
        self._losses: list[Tensor] = []
        self._num_decisions: Tensor | int = 0
        self._hits: list[Tensor] = []

    def watching(
        self, model: PreTrainedModel, look: Observer, is_real: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Calls `look` for every FFN inside the block; masks what FFNs pass on where the mask has joined.

        The mask stays on the model after the block, until `unmask`: under activation checkpointing FFNs
        run once more in the backward pass.

        Args:
            model: one of ours.
            look: takes what an FFN did; it is to call this observer.
            is_real: which tokens are no padding, [sequences, tokens], bool; None: all.
        """
        self._is_real = None if is_real is None else is_real.flatten()
        return self._watching_masked(model, look) if self.is_masked else observe(model, look)

    def unmask(self) -> None:
        """Takes the mask off the model, if it is on."""
        if self._masks is not None:
            self._masks.close()
            self._masks = None

    def __call__(self, activations: FFNActivations) -> None:
        """Takes one FFN's activations [tokens, intermediate]."""
        if self._config is None or activations.predict is None or not torch.is_grad_enabled():
            return
        combined, config = activations.combined.detach(), self._config
        active = active_labels(combined, config.label_threshold, config.label_scale)
        logits, weight = activations.predict(), self._row_weight(activations)
        self._losses.append(weighted_cross_entropy(logits, active, config.positive_weight, weight))
        self._num_decisions += _num_decisions(active, weight)
        if self._counts_hits:
            self._hits.append(_count_hits(logits.detach() > 0, active, weight))

    def predictor_loss(self) -> Tensor | None:
        """Returns the microbatch's mean binary cross-entropy per neuron and token, and forgets it."""
        if not self._losses:
            return None
        # Every packed sequence holds a conversation: some token is no padding.
        total = torch.stack(self._losses).sum() / self._num_decisions
        self._losses, self._num_decisions = [], 0
        return total

    def counts(self) -> Tensor:
        """Returns [active, predicted, both, decisions] since the step's start, int64; zeros if not counted.

        To be summed over ranks; nothing before it has waited for the device.
        """
        if not self._hits:
            return torch.zeros(4, dtype=torch.int64)
        return torch.stack(self._hits).sum(0)

    @contextmanager
    def _watching_masked(self, model: PreTrainedModel, look: Observer) -> Iterator[None]:
        if self._masks is None:
            self._masks = ExitStack()
            self._masks.enter_context(tapped(model, self._mask))
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def _mask(self, seen: GatedActivations) -> Tensor:
        assert seen.predict is not None
        logits = seen.predict()
        if self._look is not None and not is_recomputation():
            # Kept out of checkpointing's sight, as ObservableFFN.show explains.
            with saved_tensors_hooks(Tensor.detach, lambda kept: kept):
                self._look(_as_shown(seen, logits))
        return seen.combined * straight_through(logits)

    def _row_weight(self, activations: FFNActivations) -> Tensor | None:
        if self._is_real is None or activations.tokens is None:
            return self._is_real
        return self._is_real[activations.tokens]


def _as_shown(seen: GatedActivations, logits: Tensor) -> FFNActivations:
    assert seen.expert != "shared"
    return FFNActivations(seen.layer, seen.expert, seen.combined, lambda: logits, seen.tokens)


def _num_decisions(active: Tensor, row_weight: Tensor | None) -> Tensor | int:
    """Returns how many neurons of how many tokens are decided about, padding apart."""
    return active.numel() if row_weight is None else row_weight.sum() * active.shape[-1]


def _count_hits(predicted: Tensor, active: Tensor, row_weight: Tensor | None) -> Tensor:
    """Returns [active, predicted, both, decisions], int64."""
    masks = [active, predicted, active & predicted, torch.ones_like(active)]
    if row_weight is not None:
        masks = [mask & row_weight[:, None] for mask in masks]
    return torch.stack([mask.sum() for mask in masks])
