"""Greedy continuations of prompts until a stop string: dense in padded batches, or decoded sparsely."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from turbosparse.errors import DataError, ModelError
from turbosparse.evaluation.ranks import Ranks
from turbosparse.inference.decoder import Decoder
from turbosparse.inference.ffn import Mode
from turbosparse.inference.modules import MAX_BATCH

DENSE_BATCH = {"cpu": 16, "cuda": 64}
"""Sequences that are continued at once by kind of device."""


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and until when."""

    ids: list[int]
    stops: tuple[str, ...]
    num_tokens: int
    """New tokens at the most."""

    @classmethod
    def of(
        cls,
        ids: list[int],
        options: Mapping[str, Any],
        max_tokens: int,
        num_default_tokens: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> "Prompt":
        """Reads a task's generation options, and cuts the prompt from the left to leave room.

        Raises:
            DataError: The task samples, or the model's context has no room for a prompt.
        """
        wanted = normalize_gen_kwargs(dict(options), num_default_tokens)
        num_tokens = wanted["max_gen_toks"]
        if wanted.get("do_sample"):
            remedy = "choose a task that decodes greedily"
            raise DataError("generation options", dict(options), "do_sample: false", remedy)
        if num_tokens >= max_tokens:
            expected = f"a context of more than the {num_tokens} tokens that the task generates"
            raise ModelError("context", max_tokens, expected, "evaluate other tasks, or another model")
        stops = handle_stop_sequences(wanted["until"], eos=tokenizer.decode(tokenizer.eos_token_id))
        return cls(ids[-(max_tokens - num_tokens) :], tuple(stops), num_tokens)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    mode: Mode,
    on_generated: Callable[[int], None],
    ranks: Ranks,
) -> list[str]:
    """Returns each prompt's continuation without its stop string; every rank gets all of them.

    Args:
        model: in eval mode; it computes where it is.
        tokenizer: the model's.
        prompts: what to continue.
        mode: `dense`: transformers' generate; else our decoder, its new tokens in that mode.
        on_generated: hears how many more prompts have been continued, on all ranks together.
        ranks: who shares the work.

    Raises:
        ModelError: The model gives logits that are no numbers.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].ids))
    decoder = None if mode == "dense" else Decoder(model, mode)
    found: dict[int, str] = {}
    with _refusing_nan(model):
        for batch in _batches(prompts, ranks.share(order), _batch_size(model, mode)):
            wanted = [prompts[number] for number in batch]
            if decoder is None:
                tokens = _generate(model, tokenizer, wanted)
            else:
                tokens = _decode(decoder, tokenizer, wanted)
            for number, ids in zip(batch, tokens, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True)
                found[number] = postprocess_generated_text(text, list(prompts[number].stops), None)
            on_generated(len(batch) * ranks.size)
    everybodys = ranks.gather(found)
    return [everybodys[number] for number in range(len(prompts))]


def _batch_size(model: PreTrainedModel, mode: Mode) -> int:
    return DENSE_BATCH.get(model.device.type, DENSE_BATCH["cuda"]) if mode == "dense" else MAX_BATCH


def _batches(prompts: Sequence[Prompt], order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yields prompts of one kind, longest first, at most `size` at a time."""

    def kind(number: int) -> tuple[tuple[str, ...], int]:
        return prompts[number].stops, prompts[number].num_tokens

    for _, alike in groupby(sorted(order, key=kind), key=kind):
        numbers = list(alike)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


@torch.no_grad()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> list[list[int]]:
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), tokenizer.eos_token_id)
    mask = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        ids[number, length - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[number, length - len(prompt.ids) :] = 1
    output: Tensor = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_length=length + prompts[0].num_tokens,
        do_sample=False,
        stopping_criteria=[_AtStop(tokenizer, prompts[0].stops, length)],
        pad_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    new: list[list[int]] = output[:, length:].tolist()
    return new


class _AtStop(StoppingCriteria):
    """Ends each sequence by itself, at its first stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._prompt_tokens = prompt_tokens
        self._num_tail_tokens = _num_tail_tokens(stops)

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:  # noqa: ARG002
        """Returns which sequences are done: [sequences], bool."""
        start = max(self._prompt_tokens, input_ids.shape[1] - self._num_tail_tokens)
        tails = self._tokenizer.batch_decode(input_ids[:, start:])
        is_done = [any(stop in tail for stop in self._stops) for tail in tails]
        return torch.tensor(is_done, device=input_ids.device)


def _num_tail_tokens(stops: Sequence[str]) -> int:
    """Returns how many last tokens hold a stop string that has just ended.

    It has no more tokens than bytes, and may begin within a token.
    """
    return max(len(stop.encode()) for stop in stops) + 1


def _decode(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    is_done = [False] * len(prompts)
    stops = prompts[0].stops
    num_tail_tokens = _num_tail_tokens(stops)
    stream = decoder.stream([torch.tensor(prompt.ids) for prompt in prompts], prompts[0].num_tokens)
    for tokens in stream:
        for number, token in enumerate(tokens):
            if not is_done[number]:
                found[number].append(token)
                tail = tokenizer.decode(found[number][-num_tail_tokens:])
                is_done[number] = any(stop in tail for stop in stops)
        if all(is_done):
            break
    return found


@contextmanager
def _refusing_nan(model: PreTrainedModel) -> Iterator[None]:
    """Looks at every logit that the model itself computes inside the block.

    Raises:
        ModelError: One is not a number: the likeliest token among such is any.
    """

    def check(module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - a hook's signature
        if output.logits.isnan().any():
            remedy = "check the model: its weights or activations overflow"
            raise ModelError("logits", float("nan"), "finite numbers", remedy)

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()
