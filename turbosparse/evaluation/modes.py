"""How a model computes while it is evaluated: densely, with its predictors, or with few activations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from turbosparse.analysis.topk import topk_mask
from turbosparse.errors import ConfigError
from turbosparse.inference.ffn import Mode
from turbosparse.inference.modules import check_mode
from turbosparse.predictors.masks import predicted_only


@dataclass(frozen=True)
class Computation:
    """How FFNs compute.

    `exact` skips what dReLU makes zero where tokens are decoded one by one; probabilities are those of
    `dense`. `predicted` computes only neurons that the predictors expect, for every token of every text.
    """

    mode: Mode = "dense"
    topk_ratio: float | None = None
    """Share of each token's largest activations that every FFN and expert keeps; None: all of them."""

    def check(self, model: PreTrainedModel) -> None:
        """Refuses what the model can't do.

        Raises:
            ModelError: It is not dReLU, or has no predictors.
            ConfigError: Both a mode and a top-k ratio, or a ratio that is none.
        """
        check_mode(model, self.mode)
        if self.topk_ratio is None:
            return
        if self.mode != "dense":
            remedy = "leave out one of the two"
            raise ConfigError("topk_ratio", self.topk_ratio, f"no top-k ratio with mode {self.mode}", remedy)
        if not 0 < self.topk_ratio <= 1:
            raise ConfigError("topk_ratio", self.topk_ratio, "a fraction in (0, 1]", "give 1 - sparsity")

    @contextmanager
    def applied_to(self, model: PreTrainedModel) -> Iterator[None]:
        """Makes `model` compute so inside the block; to be checked before."""
        if self.topk_ratio is not None:
            with topk_mask(model, self.topk_ratio):
                yield
        elif self.mode == "predicted":
            with predicted_only(model):
                yield
        else:
            yield


DENSE = Computation()
