"""Whole models at the true widths: a few layers are measured, all of them derived from these."""

from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from turbosparse.bench.decode_peer import LlamaCpp, whole_model_seconds
from turbosparse.bench.decode_rounds import Rounds, Step, median_ratio, num_threads, time_by_turns
from turbosparse.bench.decode_shapes import NUM_SETS, Shape
from turbosparse.inference.attention import KVCache, PositionTable
from turbosparse.inference.decode import ffn_bytes
from turbosparse.inference.decoder import Decoder
from turbosparse.inference.ffn import DecodingFFN, RoutedFFN
from turbosparse.inference.operators import linear
from turbosparse.inference.quantize import Quantization

CONTEXT_TOKENS = 128
"""Tokens before the one that is decoded."""
OUTPUT = "output projection"
PEER = "llama.cpp"

Precision = Literal["bf16", "int8", "int4"]
QUANTIZATIONS: dict[Precision, Quantization] = {"bf16": "none", "int8": "int8", "int4": "int4"}


@dataclass(frozen=True)
class ModelBench:
    """One model's decoders, and its output projection alone."""

    shape: Shape
    decoders: dict[str, Decoder]
    precision: Precision
    transformers_model: PreTrainedModel | None
    """Decodes in transformers' own way, dense through F.linear, where weights are not quantised."""

    @classmethod
    def make(cls, model: PreTrainedModel, shape: Shape, precision: Precision) -> "ModelBench":
        """Returns decoders in all three modes; exact and predicted ones share their weights."""
        quantization = QUANTIZATIONS[precision]
        predicted = Decoder(model, "predicted", quantization)
        decoders = {
            "dense": Decoder(model, "dense", quantization),
            "exact": without_predictors(predicted),
            "predicted": predicted,
        }
        return cls(shape, decoders, precision, model if quantization == "none" else None)

    def ways(self) -> dict[str, Step]:
        """Returns one decoding step by mode, and the output projections' parts of them."""
        with torch.inference_mode():
            ways: dict[str, Step] = {mode: _step(decoder) for mode, decoder in self.decoders.items()}
        output = self.decoders["dense"].output
        x = torch.randn(1, self.shape.hidden_size, dtype=torch.bfloat16)
        ways[OUTPUT] = lambda _: linear(x, output)
        if self.transformers_model is not None:
            ways["F.linear"] = partial(_transformers_step, self.transformers_model)
            ways["F.linear " + OUTPUT] = lambda _: functional.linear(x, output.values)
        return ways

    def bytes_of(self, mode: str) -> float:
        """Returns the bytes that a token of the whole model reads, the mean over all sets of neurons."""
        decoder = self.decoders[mode]
        decoder.traffic.reset()
        with torch.inference_mode():
            step = _step(decoder)
            for number in range(NUM_SETS):
                step(number)
        rows = decoder.traffic.rows.tolist()
        read = (
            ffn_bytes(_one_ffn(decoder), *rows) + decoder.traffic.weight_bytes + decoder.traffic.cache_bytes
        )
        return self._whole(read / NUM_SETS, decoder.output.num_bytes)

    def whole_seconds(self, rounds: Rounds, way: str) -> list[float]:
        """Returns the whole model's seconds per token in each round, derived from the layers measured."""
        if way == PEER:
            return [whole_model_seconds(self.shape, self.precision, seconds) for seconds in rounds[PEER]]
        output = "F.linear " + OUTPUT if way == "F.linear" else OUTPUT
        return [self._whole(step, last) for step, last in zip(rounds[way], rounds[output], strict=True)]

    def _whole(self, measured: float, output: float) -> float:
        return (measured - output) * self.shape.num_layers / self.shape.num_measured_layers + output


def measure_model(
    bench: ModelBench, bandwidth: float, threads: int, num_rounds: int, peer: LlamaCpp | None = None
) -> dict[str, Any]:
    """Returns how many times as fast as our best dense way `exact` and `predicted` decode a whole model.

    Args:
        bench: the model's decoders.
        bandwidth: bytes per second that so many threads read from memory.
        threads: of every way.
        num_rounds: medians are over these.
        peer: llama.cpp with a dense model of the same shape and as many threads; None: not measured.
    """
    ways = bench.ways() | ({PEER: peer.decode} if peer else {})
    with num_threads(threads):
        rounds = time_by_turns(ways, num_rounds)
    whole = {way: bench.whole_seconds(rounds, way) for way in ways if OUTPUT not in way}
    best = min((way for way in ("dense", "F.linear") if way in whole), key=lambda way: median(whole[way]))
    num_bytes = {mode: bench.bytes_of(mode) for mode in bench.decoders}
    report = {
        way: {
            "seconds_per_token": median(seconds),
            "ratio": median_ratio(whole[best], seconds),
            "byte_ratio": num_bytes["dense"] / num_bytes.get(way, num_bytes["dense"]),
            "bandwidth_ratio": num_bytes.get(way, num_bytes["dense"]) / median(seconds) / bandwidth,
        }
        for way, seconds in whole.items()
    }
    ratio = median_ratio(whole[PEER], whole["predicted"]) if peer else None
    return {"best_dense": best, "ways": report, "llama_cpp_ratio": ratio}


def without_predictors(predicted: Decoder) -> Decoder:
    """Returns an exact decoder with the very weights of a predicting one."""
    exact = Decoder.__new__(Decoder)
    exact.__dict__ |= predicted.__dict__
    exact.mode = "exact"
    exact.layers = [replace(layer, ffn=_exact(layer.ffn)) for layer in predicted.layers]
    return exact


def _exact(ffn: DecodingFFN | RoutedFFN) -> DecodingFFN | RoutedFFN:
    if isinstance(ffn, RoutedFFN):
        return replace(ffn, experts=[replace(expert, predictor=None) for expert in ffn.experts])
    return replace(ffn, predictor=None)


def _step(decoder: Decoder) -> Step:
    """Returns a function that decodes token number mod NUM_SETS after CONTEXT_TOKENS others."""
    model, num_slots = decoder.model, CONTEXT_TOKENS + 1
    like = model.get_input_embeddings().weight
    cache = KVCache(model.config, 1, num_slots, like)
    positions = PositionTable(model.model.rotary_emb, None, num_slots, like).at([CONTEXT_TOKENS])
    return lambda number: decoder.step(torch.tensor([number % NUM_SETS]), cache, positions)


def _transformers_step(model: PreTrainedModel, number: int) -> Tensor:
    cache = DynamicCache(config=model.config)
    config = model.config
    shape = 1, config.num_key_value_heads, CONTEXT_TOKENS, config.head_dim
    for layer in range(config.num_hidden_layers):
        cache.update(*(torch.zeros(shape, dtype=model.dtype) for _ in range(2)), layer)
    ids = torch.tensor([[number % NUM_SETS]])
    logits: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    return logits


def _one_ffn(decoder: Decoder) -> DecodingFFN:
    ffn = decoder.layers[0].ffn
    return ffn.experts[0] if isinstance(ffn, RoutedFFN) else ffn
