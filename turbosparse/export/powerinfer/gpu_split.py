"""Which neurons go to the GPU: the most active ones that fit."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Encoding
from gguf import GGUFValueType as Kind
from torch import Tensor

from turbosparse.errors import ModelError
from turbosparse.export.powerinfer.gguf_file import Keys, write_gguf
from turbosparse.export.powerinfer.tensors import EncodedTensor

INDEX_SUFFIX = ".generated.gpuidx"
"""What the engine appends to the model's file name to find the index."""
GROUP_NEURONS = 256
"""Neurons that move together, as in the engine's own solver."""
BYTES_PER_GIB = 1024**3
KV_BYTES = 2
"""The engine keeps keys and values in F16."""


@dataclass(frozen=True)
class Budget:
    """What the engine has of a GPU's memory, and what is left of it for FFN neurons."""

    vram_bytes: int
    resident_bytes: int
    """What the engine places on the GPU first: attention, norms, predictors, output projection."""
    cache_bytes: int
    """Keys and values of the whole context."""

    @property
    def ffn_bytes(self) -> int:
        """Bytes that remain for neurons.

        Raises:
            ModelError: None remain.
        """
        left = self.vram_bytes - self.resident_bytes - self.cache_bytes
        if left <= 0:
            needed = (self.resident_bytes + self.cache_bytes) / BYTES_PER_GIB
            expected = f"more than {needed:.2f} GiB, which attention, predictors, output and cache take"
            remedy = "give more, or a shorter --context-tokens, or --quantize q4_0"
            raise ModelError("--vram-gib", self.vram_bytes / BYTES_PER_GIB, expected, remedy)
        return left


def plan_budget(
    tensors: list[EncodedTensor], vram_gib: float, num_layers: int, context_tokens: int
) -> Budget:
    """Returns the budget as the engine itself works it out when it loads the file.

    Args:
        tensors: The model file's.
        vram_gib: What the engine is given as --vram-budget.
        num_layers: Decoder layers.
        context_tokens: The longest context that it will be run with.
    """
    on_host = (".ffn_gate.", ".ffn_up.", ".ffn_down_t.", "token_embd.")
    resident = sum(
        tensor.num_bytes for tensor in tensors if not any(part in f".{tensor.name}" for part in on_host)
    )
    (kv_width,) = {tensor.shape[0] for tensor in tensors if ".attn_k." in tensor.name}
    cache = 2 * num_layers * context_tokens * kv_width * KV_BYTES
    return Budget(int(vram_gib * BYTES_PER_GIB), resident, cache)


def bytes_per_neuron(tensors: list[EncodedTensor]) -> int:
    """Returns what a neuron's rows of gate, up and the transposed down take together."""
    parts = [tensor for tensor in tensors if tensor.name.startswith("blk.0.ffn_") and len(tensor.shape) == 2]
    assert len(parts) == 3, [tensor.name for tensor in parts]
    return sum(tensor.num_bytes // tensor.shape[0] for tensor in parts)


def hottest_neurons(counts: list[Tensor], num_neurons: int) -> list[Tensor]:
    """Returns each layer's neurons for the GPU, ascending: at most `num_neurons` over all layers.

    Each layer's neurons move in groups of GROUP_NEURONS, the most active ones first; the groups with the
    most activations per neuron over all layers are taken while they fit. With groups of one size no
    other choice holds more activations.

    Args:
        counts: activations by neuron of each layer, [intermediate], integer.
        num_neurons: How many fit.
    """
    orders = [layer.argsort(descending=True, stable=True) for layer in counts]
    groups = [
        (float(counts[layer][group].double().mean()), layer, group)
        for layer, order in enumerate(orders)
        for group in order.split(GROUP_NEURONS)
    ]
    chosen: list[list[Tensor]] = [[] for _ in counts]
    left = num_neurons
    for _, layer, group in sorted(groups, key=lambda item: -item[0]):
        if len(group) > left:
            break
        chosen[layer].append(group)
        left -= len(group)
    return [torch.cat(parts).sort().values if parts else orders[0][:0] for parts in chosen]


def write_gpu_index(path: Path, neurons: list[Tensor], num_neurons: int, neuron_bytes: int) -> None:
    """Writes the engine's index: for each layer which of its neurons the GPU holds.

    Args:
        path: The model's file with INDEX_SUFFIX.
        neurons: Each layer's, ascending, [chosen], int64.
        num_neurons: Neurons of a layer.
        neuron_bytes: What one takes on the GPU.
    """
    tensors = []
    for layer, chosen in enumerate(neurons):
        flags = torch.zeros(num_neurons, dtype=torch.int32)
        flags[chosen] = 1
        tensors += [
            _integers(f"blk.{layer}.gpu_idx", flags),
            _integers(f"blk.{layer}.gpu_bucket", chosen.int()),
        ]
    keys: Keys = {
        "generic.gpu_index.block_count": (len(neurons), Kind.UINT32),
        # The engine refuses the index where less is left than this.
        "split.vram_capacity": (sum(map(len, neurons)) * neuron_bytes, Kind.UINT64),
    }
    write_gguf(path, "generic.gpu_index", keys, tensors)


def _integers(name: str, values: Tensor) -> EncodedTensor:
    return EncodedTensor(name, tuple(values.shape), Encoding.I32, partial(np.asarray, values.numpy()))
