"""Decoding a prompt, and an honest report of how it went."""

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.inference.decoder import Decoder
from turbosparse.inference.ffn import DecodingFFN, Mode, RoutedFFN
from turbosparse.inference.memory import measure_bandwidth


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
    stream = Decoder(model, mode).stream([prompt], num_tokens)
    tokens = next(stream)
    started = time.perf_counter()
    tokens += [token for found in stream for token in found]
    return Decoded(tokens, time.perf_counter() - started)


@dataclass(frozen=True)
class DecodingReport:
    """How fast tokens came, and what they read."""

    num_tokens: int
    """Steps: each gave one token per sequence."""
    tokens_per_second: float
    active_ratio: float
    """Neurons whose row of down was read, of those of all FFNs and experts that ran."""
    bytes_per_token: float
    """Weights, scales, keys and values read per step."""
    bytes_per_second: float
    bandwidth_bytes_per_second: float
    """What this machine reads from memory with as many threads, measured after the run."""

    def describe(self) -> str:
        """Returns the report in one line."""
        return (
            f"{self.num_tokens} tokens, {self.tokens_per_second:.1f} tokens/s after the first; "
            f"{self.active_ratio:.1%} of neurons active; "
            f"{self.bytes_per_token / 1e6:,.1f} MB read per token, "
            f"{self.bytes_per_second / 1e9:.1f} GB/s of the {self.bandwidth_bytes_per_second / 1e9:.1f} GB/s "
            f"that this machine's memory gives"
        )


def report_decoding(decoder: Decoder, num_steps: int, seconds: float) -> DecodingReport:
    """Returns what `num_steps` steps after the prefill did in `seconds`, by the decoder's traffic."""
    assert num_steps > 0
    traffic, ffn = decoder.traffic, _any_ffn(decoder)
    gate_rows, up_rows, down_rows = traffic.rows.tolist()
    read_rows = ffn_bytes(ffn, gate_rows, up_rows, down_rows)
    num_bytes = (read_rows + traffic.weight_bytes + traffic.cache_bytes) / num_steps
    return DecodingReport(
        num_tokens=num_steps,
        tokens_per_second=num_steps / seconds,
        active_ratio=down_rows / traffic.num_neurons,
        bytes_per_token=num_bytes,
        bytes_per_second=num_bytes * num_steps / seconds,
        bandwidth_bytes_per_second=measure_bandwidth(),
    )


def ffn_bytes(ffn: DecodingFFN, gate_rows: int, up_rows: int, down_rows: int) -> float:
    """Returns the bytes of so many rows of an FFN's matrices; of down, of so many neurons' weights."""
    per_neuron = ffn.down.num_bytes / len(ffn.gate.values)
    return gate_rows * ffn.gate.row_bytes + up_rows * ffn.up.row_bytes + down_rows * per_neuron


def _any_ffn(decoder: Decoder) -> DecodingFFN:
    """Returns one FFN: a model's are all of one shape."""
    ffn: Any = decoder.layers[0].ffn
    return ffn.experts[0] if isinstance(ffn, RoutedFFN) else ffn
