"""A model's tensors as PowerInfer's engine reads them: its names, its row orders, its encodings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gguf import GGMLQuantizationType as Encoding
from gguf import quants
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.export.powerinfer.contract import Quantization, common_threshold
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.shards import StoredTensor, read_tensor

Change = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]

_MATRIX: dict[Quantization, Encoding] = {"f16": Encoding.F16, "q4_0": Encoding.Q4_0}
_OUTPUT: dict[Quantization, Encoding] = {"f16": Encoding.F16, "q4_0": Encoding.Q8_0}
"""The output projection keeps more bits, as in the engine's own quantisation."""
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down_t",
    "mlp.predictor.fc1": "fc1",
    "mlp.predictor.fc2": "fc2",
}
_OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor of the file, read and encoded when its turn comes."""

    name: str
    shape: Shape
    """Rows first, as numpy has it."""
    encoding: Encoding
    read: Callable[[], np.ndarray]
    """Returns the encoded elements: [rows, bytes per row], uint8, where quantised, else `shape`."""

    @property
    def num_bytes(self) -> int:
        """Size in the file, without padding."""
        elements_per_block, bytes_per_block = quants.GGML_QUANT_SIZES[self.encoding]
        return int(np.prod(self.shape)) // elements_per_block * bytes_per_block


def encoded_tensors(
    config: TurboSparseMistralConfig,
    tensors: dict[str, StoredTensor],
    quantization: Quantization,
    *,
    is_sparse: bool = True,
) -> list[EncodedTensor]:
    """Returns the file's tensors; none is read yet, and one at a time is enough.

    Without `is_sparse` predictors are left out and the down projection stays as it is: the engine's
    dense mode reads it by rows of the output.
    """
    if config.tie_word_embeddings:
        tensors = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    return list(_encoded(config, tensors, quantization, is_sparse))


def changed_predictor(config: TurboSparseMistralConfig, name: str, weight: Tensor) -> Tensor:
    """Returns a predictor's weight for an engine with one threshold for all layers."""
    layer, _, suffix = name.removeprefix("model.layers.").partition(".mlp.predictor.")
    _, scales = common_threshold(config)
    scale = scales[int(layer)]
    return weight if suffix == "fc1.weight" or scale == 1 else weight * scale


def rotary_order(weight: Tensor, num_heads: int) -> Tensor:
    """Returns a query or key projection with its rows as the engine's rotary embedding pairs them.

    transformers turns row i of a head with row i + head_dim/2, the engine rows 2i and 2i + 1.
    """
    halves = weight.view(num_heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def encode(name: str, values: Tensor, encoding: Encoding) -> np.ndarray:
    """Returns a tensor's elements in the file's encoding.

    Raises:
        ModelError: F16 can't hold one of them.
    """
    found = values.float().contiguous().numpy()
    if encoding == Encoding.F32:
        return found
    half = torch.finfo(torch.float16)
    if not np.abs(found, out=np.empty_like(found)).max(initial=0) <= half.max:
        expected = f"finite numbers of at most {half.max:g}, which F16 can hold"
        raise ModelError(name, "larger or not finite", expected, "export with --format hf")
    return found.astype(np.float16) if encoding == Encoding.F16 else quants.quantize(found, encoding)


@torch.no_grad()
def round_weights(model: PreTrainedModel, quantization: Quantization) -> None:
    """Gives a dense model the weights, in place, that a sparse file in `quantization` holds."""
    for name, parameter in model.named_parameters():
        engine_name = _engine_name(name)
        encoding = _encoding(engine_name, tuple(parameter.shape), quantization)
        # Blocks lie along rows: reordering rows changes nothing, transposing does.
        weight = parameter.t() if engine_name.endswith("ffn_down_t.weight") else parameter
        rounded = torch.from_numpy(quants.dequantize(encode(name, weight, encoding), encoding))
        parameter.copy_(rounded.t() if weight is not parameter else rounded)


def _encoded(
    config: TurboSparseMistralConfig,
    tensors: dict[str, StoredTensor],
    quantization: Quantization,
    is_sparse: bool,
) -> Iterator[EncodedTensor]:
    for name, stored in tensors.items():
        if not is_sparse and ".predictor." in name:
            continue
        engine_name, change = _engine_name(name), _change(config, name, is_sparse)
        if not is_sparse:
            engine_name = engine_name.replace("ffn_down_t", "ffn_down")
        shape = stored.shape[::-1] if engine_name.endswith("ffn_down_t.weight") else stored.shape
        encoding = _encoding(engine_name, shape, quantization)
        yield EncodedTensor(
            engine_name, shape, encoding, partial(_read, engine_name, stored, change, encoding)
        )


def _read(name: str, stored: StoredTensor, change: Change, encoding: Encoding) -> np.ndarray:
    return encode(name, change(read_tensor(stored)), encoding)


def _engine_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in _OUTER_NAMES:
        return f"{_OUTER_NAMES[module]}.weight"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER_NAMES[part]}.weight"


def _change(config: TurboSparseMistralConfig, name: str, is_sparse: bool) -> Change:
    if name.endswith("q_proj.weight"):
        return partial(rotary_order, num_heads=config.num_attention_heads)
    if name.endswith("k_proj.weight"):
        return partial(rotary_order, num_heads=config.num_key_value_heads)
    if name.endswith("down_proj.weight") and is_sparse:
        return Tensor.t
    if ".predictor." in name:
        return partial(changed_predictor, config, name)
    return lambda weight: weight


def _encoding(engine_name: str, shape: Shape, quantization: Quantization) -> Encoding:
    if len(shape) == 1:
        return Encoding.F32
    return (_OUTPUT if engine_name == "output.weight" else _MATRIX)[quantization]
