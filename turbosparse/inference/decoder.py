"""The decoder: a model's weights, walked through one token at a time with little in between."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from turbosparse.errors import DataError, ModelError
from turbosparse.inference.attention import Attention, KVCache, PositionTable
from turbosparse.inference.choosing import Sampler, Sampling
from turbosparse.inference.ffn import DecodingFFN, Mode, RoutedFFN, Traffic, decoding_ffns, prepared
from turbosparse.inference.modules import MAX_BATCH, check_mode
from turbosparse.inference.operators import Positions, linear, rms_norm
from turbosparse.inference.quantize import Quantization

GREEDY = Sampling()


@dataclass(frozen=True)
class _Layer:
    attention: Attention
    ffn: DecodingFFN | RoutedFFN
    attention_norm: nn.Module
    ffn_norm: nn.Module
    predicts_before_norm: bool


class Decoder:
    """Decodes with a model: prompts densely, by the model itself; new tokens in the given mode.

    Attributes:
        traffic: What the new tokens have read since it was reset.
    """

    def __init__(self, model: PreTrainedModel, mode: Mode, quantization: Quantization = "none") -> None:
        """Prepares the weights; those that are not quantised or transposed are the model's own.

        Raises:
            ModelError: The model can't decode in `mode`, or there is no kernel for its weights.
        """
        check_mode(model, mode)
        self.model, self.mode, self.quantization = model, mode, quantization
        self.traffic = Traffic(torch.zeros(3, dtype=torch.int64, device=model.device))
        ffns = decoding_ffns(model, mode, quantization, self.traffic)
        self.layers = [
            _Layer(
                Attention.of(layer.self_attn, quantization),
                ffn,
                layer.input_layernorm,
                layer.post_attention_layernorm,
                layer.predicts_before_norm,
            )
            for layer, ffn in zip(model.model.layers, ffns, strict=True)
        ]
        self.output = prepared(model.lm_head.weight, quantization)

    def stream(
        self,
        prompts: Sequence[Tensor],
        num_tokens: int,
        sampling: Sampling = GREEDY,
        stop_tokens: Collection[int] = (),
    ) -> Iterator[list[int]]:
        """Yields one new token for each prompt at a time, the first ones after the dense prefill.

        Ends after `num_tokens`, or when every sequence has had a stop token; what a sequence goes on
        with after its own is for the caller to leave out.

        Args:
            prompts: [tokens] each, of any lengths.
            num_tokens: new tokens per sequence.
            sampling: how tokens are chosen.
            stop_tokens: end a sequence.

        Raises:
            DataError: A prompt is empty or leaves no room in the model's context; or too many prompts.
            ModelError: The predictors' thresholds keep no neuron.
        """
        self._check_prompts(prompts, num_tokens)
        return self._stream(prompts, num_tokens, Sampler(sampling), stop_tokens)

    @torch.inference_mode()
    def _stream(
        self, prompts: Sequence[Tensor], num_tokens: int, sampler: Sampler, stop_tokens: Collection[int]
    ) -> Iterator[list[int]]:
        num_slots = max(map(len, prompts)) + num_tokens
        like = self.model.get_input_embeddings().weight
        cache = KVCache(self.model.config, len(prompts), num_slots, like)
        rotary, window = self.model.model.rotary_emb, self.model.config.sliding_window
        table = PositionTable(rotary, window, num_slots, like)
        tokens = sampler.choose(self._prefill(prompts, cache))
        has_stopped = [False] * len(prompts)
        for step in range(num_tokens):
            if step:
                positions = table.at([len(prompt) + step - 1 for prompt in prompts])
                tokens = sampler.choose(self.step(tokens, cache, positions))
                self._check_keeps_something()
            found = tokens.tolist()
            has_stopped = [old or token in stop_tokens for old, token in zip(has_stopped, found, strict=True)]
            yield found
            if all(has_stopped):
                return

    def step(self, tokens: Tensor, cache: KVCache, positions: Positions) -> Tensor:
        """Returns the logits after one more token for each sequence: [sequences, vocabulary].

        Args:
            tokens: [sequences], int64.
            cache: of what came before; the tokens' keys and values are added.
            positions: of the tokens.
        """
        x = self.model.model.embed_tokens(tokens)
        for layer, block in zip(self.layers, cache.blocks, strict=True):
            x = x + layer.attention(_normalise(x, layer.attention_norm), block, positions)
            normed = _normalise(x, layer.ffn_norm)
            x = x + layer.ffn(normed, x if layer.predicts_before_norm else normed)
            self.traffic.weight_bytes += layer.attention.num_bytes
        num_read = cache.blocks[:, :, :, :, positions.first : positions.end].numel()
        self.traffic.cache_bytes += num_read * cache.blocks.itemsize
        self.traffic.weight_bytes += self.output.num_bytes
        return linear(_normalise(x, self.model.model.norm), self.output)

    def _prefill(self, prompts: Sequence[Tensor], cache: KVCache) -> Tensor:
        logits = []
        for number, prompt in enumerate(prompts):
            prefilled = DynamicCache(config=self.model.config)
            ids = prompt[None].to(self.model.device)
            output = self.model(input_ids=ids, past_key_values=prefilled, use_cache=True, logits_to_keep=1)
            cache.fill(number, prefilled, len(prompt))
            logits.append(output.logits[:, -1])
        return torch.cat(logits)

    def _check_prompts(self, prompts: Sequence[Tensor], num_tokens: int) -> None:
        if not 0 < len(prompts) <= MAX_BATCH:
            raise DataError("prompts", len(prompts), f"1 to {MAX_BATCH} of them", "decode them in parts")
        context = self.model.config.max_position_embeddings
        for prompt in prompts:
            if not len(prompt) or len(prompt) + num_tokens > context:
                raise DataError(
                    "prompt",
                    f"{len(prompt)} tokens, {num_tokens} to follow",
                    f"1 token or more, and at most {context} with those to follow",
                    "shorten the prompt or ask for fewer tokens",
                )

    def _check_keeps_something(self) -> None:
        if self.mode == "predicted" and not self.traffic.rows[0]:
            threshold = self.model.config.predictor_threshold
            remedy = "lower predictor_threshold in the model's config.json, or use --mode exact"
            raise ModelError("predictor_threshold", threshold, "thresholds that keep some neurons", remedy)


def _normalise(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, norm.weight, norm.variance_epsilon)
