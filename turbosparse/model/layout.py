"""Names and shapes of a model's tensors on disk: our own, stacked, and those with one tensor per expert."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM
from turbosparse.model.shards import StoredTensor, equal_bytes, join_tensors, split_tensor

OurConfig = TurboSparseMistralConfig | TurboSparseMixtralConfig
Shape = tuple[int, ...]

_PER_EXPERT = {
    "experts.gate_up_proj": ("w1.weight", "w3.weight"),
    "experts.down_proj": ("w2.weight",),
    "experts.predictor.fc1": ("predictor.fc1.weight",),
    "experts.predictor.fc2": ("predictor.fc2.weight",),
}
"""What one of our stacked tensors holds of each expert, in this order, the first expert first."""


def our_class(config: OurConfig) -> type[PreTrainedModel]:
    """Returns the class that `config` configures."""
    is_moe = isinstance(config, TurboSparseMixtralConfig)
    return TurboSparseMixtralForCausalLM if is_moe else TurboSparseMistralForCausalLM


def on_meta(config: OurConfig) -> PreTrainedModel:
    """Returns the model without weights: names, shapes and modules."""
    with torch.device("meta"):
        return our_class(config)(config)


def pieces(name: str, shape: Shape, per_expert: bool) -> dict[str, Shape]:
    """Returns the tensors that hold our tensor `name` on disk, in the order of its elements.

    Args:
        name: As in our state dict.
        shape: Our tensor's.
        per_expert: Whether each expert has tensors of its own, as in the released Mixtrals.
    """
    layer, is_ffn, suffix = name.partition(".mlp.")
    if not per_expert or not is_ffn:
        return {name: shape}
    if suffix not in _PER_EXPERT:
        return {f"{layer}.block_sparse_moe.{suffix}": shape}
    projections = _PER_EXPERT[suffix]
    num_experts, num_rows, num_columns = shape
    part = (num_rows // len(projections), num_columns)
    return {
        f"{layer}.block_sparse_moe.experts.{expert}.{projection}": part
        for expert in range(num_experts)
        for projection in projections
    }


def to_ours(stored: dict[str, StoredTensor], config: OurConfig) -> dict[str, StoredTensor]:
    """Returns a model's tensors under our names and in our shapes, from either layout.

    Raises:
        ModelError: A tensor is missing, left over, of another shape, or differs from the one that
            the configuration ties it to.
    """
    per_expert = any(".block_sparse_moe." in name for name in stored)
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta(config).state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
        stored = _without_tied(stored)
    parts = {name: pieces(name, shape, per_expert) for name, shape in shapes.items()}
    # Checkpoints of 2023 hold the rotary frequencies of each layer; they follow from the configuration.
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith("rotary_emb.inv_freq")}
    _check_shapes(stored, {piece: shape for part in parts.values() for piece, shape in part.items()})
    for part in parts.values():
        _check_same_dtype({piece: stored[piece].dtype for piece in part})
    return {name: join_tensors([stored[piece] for piece in parts[name]], shapes[name]) for name in shapes}


def from_ours(tensors: dict[str, StoredTensor], per_expert: bool) -> dict[str, StoredTensor]:
    """Returns our tensors as another layout names and cuts them."""
    laid_out: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        parts = pieces(name, tensor.shape, per_expert)
        laid_out |= zip(parts, split_tensor(tensor, list(parts.values())), strict=True)
    return laid_out


def _without_tied(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    output, embedding = stored.get("lm_head.weight"), stored.get("model.embed_tokens.weight")
    if output is not None and embedding is not None and not equal_bytes(output, embedding):
        raise ModelError(
            "lm_head.weight",
            "other values than model.embed_tokens.weight",
            "the same, as config.json has tie_word_embeddings: true",
            "set tie_word_embeddings to false there",
        )
    return {name: tensor for name, tensor in stored.items() if name != "lm_head.weight"}


def _check_shapes(stored: dict[str, StoredTensor], expected: dict[str, Shape]) -> None:
    wrong = [
        f"{name} {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = {
        "missing": _some(name for name in expected if name not in stored),
        "unknown": _some(name for name in stored if name not in expected),
        "of another shape": _some(wrong),
    }
    found = {kind: names for kind, names in problems.items() if names}
    if found:
        remedy = "give a folder whose weights match its config.json"
        raise ModelError("weights", found, "those that config.json describes", remedy)


def _check_same_dtype(dtypes: dict[str, str]) -> None:
    examples = {dtype: name for name, dtype in dtypes.items()}
    if len(examples) > 1:
        raise ModelError("dtype", examples, "one dtype for all experts of a layer", "save them in one dtype")


def _some(names: Iterable[str], most: int = 3) -> list[str]:
    """Returns the first names, and how many more there are: an error is read by a person."""
    every = list(names)
    return every if len(every) <= most else [*every[:most], f"and {len(every) - most} more"]
