"""From SwiGLU to dReLU, and from a configuration to initial weights."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from turbosparse.config import Activation, ModelConfig
from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.folder import assemble, check_model_folder, open_folder, our_config
from turbosparse.model.layout import OurConfig, on_meta, our_class
from turbosparse.model.released import RELEASED_TYPES
from turbosparse.model.rewrite import our_values, write_folder
from turbosparse.model.shards import SHARD_BYTES


@dataclass(frozen=True)
class ConvertedModel:
    """What a conversion wrote; `load_model` brings it into memory."""

    config: OurConfig
    num_parameters: int
    """Tied embeddings count once."""


def convert_model(
    source: str | Path, target: Path, activation: Activation = "drelu", shard_bytes: int = SHARD_BYTES
) -> ConvertedModel:
    """Writes `source`'s model to `target` with another activation; every weight stays bit for bit.

    Bytes go from file to file: memory in use depends neither on the model's size nor on its files'.

    Raises:
        ModelError: The source is of another architecture, is not SwiGLU, or lacks a tensor.
        ArtifactError: The target exists and is not an empty folder.

    Reference: Section 5 of the paper.
    """
    check_convertible(source)
    theirs, tensors = open_folder(source)
    config = our_config(theirs, activation)
    write_folder(our_values(config), tensors, Path(source), target, shard_bytes)
    return ConvertedModel(config, sum(math.prod(tensor.shape) for tensor in tensors.values()))


def check_convertible(source: str | Path) -> dict[str, Any]:
    """Returns a source folder's configuration as a mapping, having read no weight.

    Raises:
        ModelError: It is not a SwiGLU model of a known architecture.
    """
    values = check_model_folder(source)
    default = "drelu" if values["model_type"] in RELEASED_TYPES else "swiglu"
    found = values.get("activation", default)
    if found != "swiglu":
        raise ModelError("activation", found, "a SwiGLU model", "give the model from before its conversion")
    return values


def initial_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, activation: Activation
) -> PreTrainedModel:
    """Returns a model with seeded initial weights, fp32, for the tokenizer's vocabulary."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    decoder = decoder_config(config, len(tokenizer), activation=activation, **special)
    set_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return our_class(decoder)(decoder)


def decoder_config(config: ModelConfig, vocab_size: int, **others: Any) -> OurConfig:
    """Returns the configuration of the model that `config` describes, with `others` of its fields."""
    is_moe = config.architecture == "mixtral"
    config_class = TurboSparseMixtralConfig if is_moe else TurboSparseMistralConfig
    return config_class(**config.decoder_fields(vocab_size), **others)


def add_vocabulary(model: PreTrainedModel, vocab_size: int) -> None:
    """Widens embeddings and output projection in place; new rows are the mean of the old ones.

    A mean row starts a new token as one that the model neither expects nor is surprised by.
    """
    known = [layer.weight.detach() for layer in _vocabulary_layers(model)]
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    with torch.no_grad():
        for layer, rows in zip(_vocabulary_layers(model), known, strict=True):
            layer.weight.copy_(widened_rows(rows, vocab_size))


def widened_rows(weight: Tensor, num_rows: int) -> Tensor:
    """Returns `weight` [rows, hidden] with rows of its mean added up to `num_rows`."""
    mean = weight.mean(dim=0, keepdim=True)
    return torch.cat([weight, mean.expand(num_rows - len(weight), -1)])


def with_predictors(model: PreTrainedModel, rank: int | Sequence[int], seed: int) -> PreTrainedModel:
    """Returns the same model, weights shared, with seeded predictors beside its FFNs.

    `rank` is one width for all layers or a sequence with one per layer.
    """
    ranks = rank if isinstance(rank, int) else list(rank)
    config = type(model.config)(**{**model.config.to_dict(), "predictor_rank": ranks})
    state_dict = model.state_dict()
    for name, tensor in on_meta(config).state_dict().items():
        if name not in state_dict:
            state_dict[name] = fresh_predictor(name, tensor.shape, config, seed).to(model.device, model.dtype)
    return assemble(config, state_dict)


def fresh_predictor(name: str, shape: Sequence[int], config: OurConfig, seed: int) -> Tensor:
    """Returns the initial weight, fp32, of the predictor weight `name` in the model's state dict.

    Each tensor has random numbers of its own: whoever needs one of them makes that one only.
    """
    assert ".predictor." in name, name
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(tuple(shape)).normal_(std=config.initializer_range, generator=generator)


def _vocabulary_layers(model: PreTrainedModel) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()
