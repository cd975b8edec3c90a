"""A model as lm-evaluation-harness wants it. Importing this takes seconds: import it where it is used."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.errors import DataError, ModelError
from turbosparse.evaluation.generation import Prompt, generate
from turbosparse.evaluation.local_tasks import LOCAL_TASKS
from turbosparse.evaluation.ranks import ALONE, Ranks
from turbosparse.evaluation.scoring import Score, score
from turbosparse.evaluation.tally import Tally
from turbosparse.evaluation.trees import ScoredSequence, Tokens
from turbosparse.inference.ffn import Mode
from turbosparse.progress import OnProgress, Progress, ignore_progress

ENCODED_AT_ONCE = 1_024
"""Texts per call of the tokenizer, whose own lists of tokens take ten times an array's memory."""


class HarnessModel(HFLM):
    """The harness's own Hugging Face model, whose prompts it tokenizes alike, with scoring of our own.

    Texts begin as the tokenizer begins them, as they do for the harness's command line without options.
    Where the perplexity of a whole text is measured, the harness puts a beginning-of-text token before
    the tokenizer's own, whose probability then counts: so it does here, except for the local tasks, and
    in the perplexity per token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mode: Mode = "dense",
        max_batch_tokens: int | None = None,
        on_progress: OnProgress = ignore_progress,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=1)
        self.tally = Tally()
        self._mode = mode
        self._max_batch_tokens = max_batch_tokens
        self._on_progress = on_progress
        self._ranks = ranks

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Scores each request's continuation: its log-likelihood and whether greedy decoding gives it."""
        pairs = self._encode_pairs([request.args for request in requests])
        limit = self.max_length
        sequences = []
        for request, (context, continuation) in zip(requests, pairs, strict=True):
            _check_fits(request, len(continuation), limit)
            if len(context) + len(continuation) > limit + 1:
                self.tally.count_too_long(request)
            sequences.append(ScoredSequence.of(context, continuation, limit))
        scores = self._score(sequences)
        for request, found in zip(requests, scores, strict=True):
            _check_finite(request, found.log_likelihood)
        return [(found.log_likelihood, found.is_greedy) for found in scores]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Scores each request's whole text, in windows of the model's context."""
        windows = [self._windows(request) for request in requests]
        scores = iter(self._score([window for text in windows for window in text]))
        log_likelihoods = []
        for request, text in zip(requests, windows, strict=True):
            found = [next(scores) for _ in text]
            total = sum(one.log_likelihood for one in found)
            _check_finite(request, total)
            log_likelihoods.append(total)
            if not text:
                continue
            # Beginning of text, where the tokenizer put one, is no token of the text.
            has_beginning = text[0].targets[0] == self.prefix_token_id
            of_text = torch.cat([one.log_probs for one in found])[int(has_beginning) :]
            self.tally.add_text(request, float(of_text.double().sum()), len(of_text))
        return log_likelihoods

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Continues each request's prompt greedily until one of its stop strings."""
        prompts = []
        for request in requests:
            text, options = request.args
            ids = self._encode([text])[text].tolist()
            prompt = Prompt.of(ids, options, self.max_length, self.max_gen_toks, self.tokenizer)
            if len(prompt.ids) < len(ids):
                self.tally.count_too_long(request)
            prompts.append(prompt)
        report = self._reporter(len(prompts))
        return generate(self.model, self.tokenizer, prompts, self._mode, report, self._ranks)

    def _score(self, sequences: Sequence[ScoredSequence]) -> list[Score]:
        report = self._reporter(len(sequences))
        return score(self.model, sequences, self._max_batch_tokens, report, self._ranks)

    def _windows(self, request: Any) -> list[ScoredSequence]:
        (text,) = request.args
        ids = self.tok_encode(text, add_special_tokens=False if is_local(request) else None)
        limit = self.max_length
        windows = get_rolling_token_windows(ids, self.prefix_token_id, limit, context_len=1)
        parts = map(make_disjoint_window, windows)
        return [ScoredSequence.of(context, continuation, limit) for context, continuation in parts]

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Returns the tokens of contexts and continuations, split where the harness splits them."""
        moved = [_without_trailing_spaces(*pair) for pair in pairs]
        texts = (text for context, continuation in moved for text in (context, context + continuation))
        encoded = self._encode(texts)
        found = []
        for context, continuation in moved:
            if not context:
                found.append(self._after_nothing(continuation))
            else:
                ids = encoded[context]
                found.append((ids, encoded[context + continuation][len(ids) :]))
        return found

    def _after_nothing(self, continuation: str) -> tuple[Tokens, Tokens]:
        ids = np.asarray(self.tok_encode(continuation, add_special_tokens=False), dtype=np.int32)
        first = np.asarray([self.prefix_token_id], dtype=np.int32)
        return (ids[:1], ids[1:]) if ids[0] == first[0] else (first, ids)

    def _encode(self, texts: Iterable[str]) -> dict[str, Tokens]:
        """Returns each different text's tokens; many texts are tokenized in one call."""
        beginning = self.tokenizer.decode(self.prefix_token_id)
        begun = {text: has_bos_prefix(text, beginning) for text in texts}
        found: dict[str, Tokens] = {}
        for has_beginning in (False, True):
            alike = [text for text, has in begun.items() if has == has_beginning]
            options = {"add_special_tokens": False} if has_beginning else {}
            for start in range(0, len(alike), ENCODED_AT_ONCE):
                some = alike[start : start + ENCODED_AT_ONCE]
                encoded = self.tokenizer(some, **options)["input_ids"]
                found |= zip(some, (np.asarray(ids, dtype=np.int32) for ids in encoded), strict=True)
        return found

    def _reporter(self, total: int) -> Callable[[int], None]:
        completed = 0

        def report(num_more: int) -> None:
            nonlocal completed
            completed = min(completed + num_more, total)
            self._on_progress(Progress("evaluate", completed, total, "requests"))

        return report


def is_local(request: Any) -> bool:
    """Returns whether a request is one of the local tasks'."""
    return request.task_name in LOCAL_TASKS


def _check_fits(request: Any, num_tokens: int, limit: int) -> None:
    if not 0 < num_tokens <= limit:
        name = f"{request.task_name}, item {request.doc_id}"
        expected = f"continuations of 1 token to the model's context of {limit} tokens"
        raise DataError(name, f"{num_tokens} tokens", expected, "evaluate a model with a longer context")


def _without_trailing_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Moves a context's trailing spaces to the continuation, as the harness does: tokens begin with them."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _check_finite(request: Any, log_likelihood: float) -> None:
    if not math.isfinite(log_likelihood):
        name = f"{request.task_name}, log-likelihood of item {request.doc_id}"
        raise not_a_number(name, log_likelihood)


def not_a_number(figure: str, value: float) -> ModelError:
    """Returns the error of a figure that is not a finite number."""
    remedy = "check the model: its weights or activations overflow"
    return ModelError(figure, value, "a finite number", remedy)
