"""Greedy decoding with a KV cache, token by token."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from turbosparse.errors import DataError
from turbosparse.inference.modules import Mode, decoding


@dataclass(frozen=True)
class Decoded:
    """What decoding produced, and how long it took."""

    tokens: list[int]
    """The new tokens."""
    seconds: float
    """Time for the tokens after the first: the prompt's prefill is not in it."""

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, prefill apart."""
        assert len(self.tokens) > 1, "the first token is the prefill's"
        return (len(self.tokens) - 1) / self.seconds


def decode(model: PreTrainedModel, prompt: Tensor, num_tokens: int, mode: Mode) -> Decoded:
    """Decodes `num_tokens` tokens greedily after `prompt` [tokens], whatever they are.

    Raises:
        DataError: The prompt is empty, or leaves no room in the model's context.
        ModelError: The model can't decode in `mode`.
    """
    with decoding(model, mode):
        stream = stream_tokens(model, prompt, num_tokens)
        tokens = [next(stream)]
        started = time.perf_counter()
        tokens.extend(stream)
        return Decoded(tokens, time.perf_counter() - started)


@torch.inference_mode()
def stream_tokens(
    model: PreTrainedModel, prompt: Tensor, num_tokens: int, stop_tokens: Collection[int] = ()
) -> Iterator[int]:
    """Yields greedily decoded tokens one by one, the first after the dense prefill.

    Ends after `num_tokens`, or with the first of the stop tokens.

    Raises:
        DataError: The prompt is empty, or leaves no room in the model's context.
    """
    _check_fits(model, prompt, num_tokens)
    cache = DynamicCache(config=model.config)
    tokens = prompt[None].to(model.device)
    for _ in range(num_tokens):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        token = int(tokens)
        yield token
        if token in stop_tokens:
            return


def _check_fits(model: PreTrainedModel, prompt: Tensor, num_tokens: int) -> None:
    context = model.config.max_position_embeddings
    if not len(prompt) or len(prompt) + num_tokens > context:
        raise DataError(
            "prompt",
            f"{len(prompt)} tokens, {num_tokens} to follow",
            f"1 token or more, and at most {context} with those to follow",
            "shorten the prompt or ask for fewer tokens",
        )
