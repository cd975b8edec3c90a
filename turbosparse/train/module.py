"""The model as Composer trains it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from turbosparse.config import PredictorConfig, TrainConfig
from turbosparse.data.chat import IGNORED_LABEL
from turbosparse.model.observe import FFNActivations
from turbosparse.train.levers import Levers
from turbosparse.train.observer import TrainingObserver
from turbosparse.train.statistics import FFNStatistics

Batch = dict[str, Tensor]


class CausalLMTraining(ComposerModel):
    """Next-token loss, the router's balancing loss (Mixtral), and the predictors' own loss."""

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: TrainConfig,
        predictor: PredictorConfig | None = None,
        teacher: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.levers = Levers(recipe, model, teacher)
        self.observer = TrainingObserver(predictor)
        self.statistics = FFNStatistics(model.config, model.device)
        self.observes = False
        self.losses: dict[str, Tensor] = {}
        """This step's sums over microbatches, by name; `language_model` is per token of the whole batch."""
        self.num_sequences = 0
        """Sequences of this step that this rank has computed the loss of."""
        self._recipe = recipe
        self._trains_predictors = predictor is not None
        self._is_moe = hasattr(model.config, "num_local_experts")
        self._tokens_per_sequence = 1.0

    def start_step(self, progress_ratio: float, observes: bool, tokens_per_sequence: float) -> None:
        """Opens an optimizer step.

        Args:
            progress_ratio: Steps done over all steps, in [0, 1).
            observes: Whether the FFNs' activations are measured in it.
            tokens_per_sequence: Supervised tokens of the global batch over its sequences. By this, not
                by its own tokens, a microbatch's loss is divided: every supervised token counts alike,
                whatever rank and microbatch it is in.
        """
        self.observes = observes
        self.losses.clear()
        self.num_sequences = 0
        self.observer.start_step(progress_ratio, counts=observes)
        self.statistics.start_step()
        self.levers.start_step(progress_ratio)
        self._tokens_per_sequence = tokens_per_sequence

    def forward(self, batch: Batch) -> CausalLMOutputWithPast:
        """Runs the model on input_ids [sequences, tokens], with labels and position_ids if given."""
        batch = self.levers.cut(batch)
        arguments: dict[str, Any] = {"output_router_logits": True} if self._is_moe else {}
        arguments["output_hidden_states"] = self.levers.wants_hidden_states
        with self._looking(batch.get("is_real")), self._compiled_or_not():
            output: CausalLMOutputWithPast = self.model(
                input_ids=batch["input_ids"],
                position_ids=batch.get("position_ids"),
                use_cache=False,
                **arguments,
            )
        return output

    def loss(self, outputs: CausalLMOutputWithPast, batch: Batch) -> Tensor:
        """Returns the microbatch's loss, a scalar; keeps its parts for the progress report."""
        logits = outputs.logits
        assert logits is not None
        num_sequences = len(batch["input_ids"])
        batch = self.levers.cut(batch)
        labels = batch.get("labels", batch["input_ids"])
        num_tokens = num_sequences * self._tokens_per_sequence
        language_model: Tensor = self.model.loss_function(
            logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=num_tokens
        )
        parts = {"language_model": language_model, **self.levers.losses(outputs, batch, num_tokens)}
        weights = {"language_model": self.levers.language_model_weight}
        if self._is_moe:
            parts["router_balance"] = outputs.aux_loss
            weights["router_balance"] = self._recipe.router_aux_loss_ratio
        if self._trains_predictors:
            predictor_loss = self.observer.predictor_loss()
            assert predictor_loss is not None
            parts["predictor"] = predictor_loss
        self._keep(parts, num_sequences)
        return torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()

    def _looking(self, is_real: Tensor | None) -> AbstractContextManager[Any]:
        if not (self.observes or self._trains_predictors or self.levers.watches):
            return nullcontext()
        return self.observer.watching(self.model, self._look, is_real)

    def _compiled_or_not(self) -> AbstractContextManager[Any]:
        # Compiled layers know nothing of an observer that comes and goes.
        return torch.compiler.set_stance("force_eager") if self.observes else nullcontext()

    def _look(self, activations: FFNActivations) -> None:
        if self.observes:
            self.statistics(activations)
        if self._trains_predictors:
            self.observer(activations)
        if self.levers.watches:
            self.levers.look(activations)

    def _keep(self, parts: dict[str, Tensor], num_sequences: int) -> None:
        self.num_sequences += num_sequences
        for name, part in parts.items():
            kept = part.detach() * num_sequences
            self.losses[name] = self.losses[name] + kept if name in self.losses else kept


def num_supervised_tokens(batch: Batch) -> int:
    """Returns how many of a batch's tokens the loss falls on: a sequence's first has no prediction."""
    labels = batch.get("labels", batch["input_ids"])
    return int((labels[:, 1:] != IGNORED_LABEL).sum())
