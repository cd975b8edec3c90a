"""The model as Composer trains it."""

from contextlib import nullcontext
from typing import Any

from composer.models import ComposerModel
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from turbosparse.config import PredictorConfig
from turbosparse.model.observe import observe
from turbosparse.train.observer import TrainingObserver

Batch = dict[str, Tensor]


class CausalLMTraining(ComposerModel):
    """Next-token loss, the router's balancing loss (Mixtral), and the predictors' own loss."""

    def __init__(
        self, model: PreTrainedModel, router_aux_loss_ratio: float, predictor: PredictorConfig | None
    ) -> None:
        super().__init__()
        self.model = model
        self.observer = TrainingObserver(predictor.positive_weight if predictor else 1.0)
        self.language_model_losses: list[Tensor] = []
        self.predictor_losses: list[Tensor] = []
        self.observes = False
        self._trains_predictors = predictor is not None
        self._is_moe = hasattr(model.config, "num_local_experts")
        self._router_aux_loss_ratio = router_aux_loss_ratio
        # Without this FSDP2 takes the whole model as one unit.
        layer_class = type(model.model.layers[0])
        model.fsdp_wrap_fn = lambda module: isinstance(module, layer_class)

    def forward(self, batch: Batch) -> CausalLMOutputWithPast:
        """Runs the model on input_ids [sequences, tokens], with labels and position_ids if given."""
        looking = self.observes or self._trains_predictors
        arguments: dict[str, Any] = {"output_router_logits": True} if self._is_moe else {}
        with observe(self.model, self.observer) if looking else nullcontext():
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
        labels = batch.get("labels", batch["input_ids"])
        loss: Tensor = self.model.loss_function(logits, labels, vocab_size=logits.shape[-1])
        self.language_model_losses.append(loss.detach())
        if self._is_moe:
            loss = loss + self._router_aux_loss_ratio * outputs.aux_loss
        if self._trains_predictors:
            predictor_loss = self.observer.predictor_loss()
            assert predictor_loss is not None
            self.predictor_losses.append(predictor_loss.detach())
            loss = loss + predictor_loss
        return loss
