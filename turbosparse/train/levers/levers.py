"""All levers of one training run behind one interface."""

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from turbosparse.config import TrainConfig
from turbosparse.config.levers import DistillationConfig
from turbosparse.model.observe import FFNActivations
from turbosparse.train.levers.distillation import (
    distillation_loss,
    hidden_loss,
    hidden_weight,
    run_teacher,
)
from turbosparse.train.levers.penalty import SparsityPenalty
from turbosparse.train.levers.schedule import ActivationSchedule
from turbosparse.train.levers.sequences import cut, length_at


class Levers:
    """What the recipe's levers add to a training step; without any, nothing.

    Whoever trains calls, in this order:

    1. `start_step(progress_ratio)` before an optimizer step;
    2. `cut(batch)` before a microbatch's forward pass, and again before its loss;
    3. `look(activations)` for every FFN of the forward pass, where `watches` says so. The penalty's
       gradients flow through `activations.combined`, under activation checkpointing too: a layer is
       observed in its forward pass and recomputed unobserved. Compiled layers show nothing;
    4. `losses(outputs, batch, num_tokens)` after it: terms to add to the loss, while the cross-entropy is
       multiplied by `language_model_weight`. The outputs hold hidden states where
       `wants_hidden_states` says so.

    The teacher is no part of the model: no optimizer, checkpoint or sharding sees it.
    """

    def __init__(self, recipe: TrainConfig, model: nn.Module, teacher: PreTrainedModel | None) -> None:
        """Prepares the levers.

        Args:
            recipe: Says which levers are on.
            model: The model that trains; its FFNs' activation is what a schedule changes.
            teacher: The original model, for `distillation`; see `load_teacher`.
        """
        assert (teacher is None) == (recipe.distillation is None), "the teacher and its lever belong together"
        self._distillation = recipe.distillation
        self._teacher = teacher
        self._hidden_weight = 0.0
        self._penalty = SparsityPenalty(recipe.sparsity_penalty) if recipe.sparsity_penalty else None
        schedule = recipe.activation_schedule
        self._schedule = ActivationSchedule(model, schedule.share_of_steps) if schedule else None
        self._sequence_warmup = recipe.sequence_warmup
        self._progress_ratio = 0.0

    @property
    def watches(self) -> bool:
        """Whether the forward pass must be observed."""
        return self._penalty is not None

    @property
    def wants_hidden_states(self) -> bool:
        """Whether this step's forward pass must return its hidden states."""
        return self._hidden_weight > 0

    @property
    def language_model_weight(self) -> float:
        """What the cross-entropy is multiplied by."""
        return 1.0 if self._distillation is None else 1.0 - self._distillation.weight

    def start_step(self, progress_ratio: float) -> None:
        """Opens an optimizer step; `progress_ratio` is the steps done over all steps, in [0, 1)."""
        self._progress_ratio = progress_ratio
        if self._distillation is not None:
            self._hidden_weight = hidden_weight(self._distillation, progress_ratio)
        for lever in (self._penalty, self._schedule):
            if lever is not None:
                lever.start_step(progress_ratio)

    def cut(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the microbatch in sequences as long as this step's are; see `sequences.cut`."""
        if self._sequence_warmup is None:
            return batch
        sequence_length = batch["input_ids"].shape[1]
        return cut(batch, length_at(self._sequence_warmup, self._progress_ratio, sequence_length))

    def look(self, activations: FFNActivations) -> None:
        """Takes one FFN's activations, as an observer does."""
        if self._penalty is not None:
            self._penalty(activations)

    def losses(
        self, outputs: CausalLMOutputWithPast, batch: dict[str, Tensor], num_tokens: float
    ) -> dict[str, Tensor]:
        """Returns the microbatch's terms by name, each a scalar, weights included.

        Args:
            outputs: The model's: logits [sequences, tokens, vocabulary], hidden states if asked for.
            batch: `input_ids`, and `labels` and `position_ids` if there are any.
            num_tokens: What the cross-entropy's sum over tokens is divided by; KL's is divided alike.
        """
        terms: dict[str, Tensor] = {}
        if self._distillation is not None:
            terms |= self._distil(self._distillation, outputs, batch, num_tokens)
        if self._penalty is not None:
            terms["sparsity_penalty"] = self._penalty.loss()
        return terms

    def _distil(
        self,
        config: DistillationConfig,
        outputs: CausalLMOutputWithPast,
        batch: dict[str, Tensor],
        num_tokens: float,
    ) -> dict[str, Tensor]:
        logits = outputs.logits
        assert self._teacher is not None
        assert logits is not None
        if self._teacher.device != logits.device:
            self._teacher.to(logits.device)
        original = run_teacher(self._teacher, batch, self.wants_hidden_states)
        labels = batch.get("labels", batch["input_ids"])
        kl = distillation_loss(logits, original.logits, labels, config.temperature)
        terms = {"distillation": config.weight * kl / num_tokens}
        if self.wants_hidden_states:
            # The first is the embedding: nothing was lost there.
            distance = hidden_loss(outputs.hidden_states[1:], original.hidden_states[1:])
            terms["hidden_states"] = self._hidden_weight * distance
        return terms
