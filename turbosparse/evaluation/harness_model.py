"""A model as lm-evaluation-harness wants it. Importing this takes seconds: import it where it is used."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.progress import OnProgress, Progress


class HarnessModel(HFLM):
    """The harness's own Hugging Face model, on a model in memory, with progress for whoever listens.

    It starts every text with exactly one beginning-of-text token. Left alone, the harness puts one
    before a text whose perplexity it measures, and then scores the tokenizer's own as part of the text;
    its command line gives our figures for such tasks with add_bos_token=False.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        on_progress: OnProgress,
    ) -> None:
        super().__init__(
            pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size, add_bos_token=True
        )
        self._on_progress = on_progress
        self._completed = self._total = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Scores each request's continuation: its log-likelihood and whether greedy decoding gives it."""
        self._completed, self._total = 0, len(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Scores each request's whole text, its first token given beginning of text."""
        self._completed, self._total = 0, len(requests)
        self.add_bos_token = False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self.add_bos_token = True

    def _loglikelihood_tokens(self, requests: list[Any], **options: Any) -> list[tuple[float, bool]]:
        """As the harness does it, without the bar that it draws for every batch of a rolling text."""
        scored: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, **{**options, "disable_tqdm": True}
        )
        return scored

    def _model_call(self, inps: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Returns logits [batch, seq, vocab] for `inps` [batch, seq]."""
        logits = super()._model_call(inps, **kwargs)
        self._completed = min(self._completed + len(inps), self._total)
        self._on_progress(Progress("evaluate", self._completed, self._total, "requests"))
        return logits
