"""Model folders on disk: Hugging Face layout, safetensors only, no code from outside executed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import OurConfig, on_meta, to_ours
from turbosparse.model.released import RELEASED_TYPES, config_from_released
from turbosparse.model.shards import StoredTensor, find_tensors, read_tensor

_SWIGLU = {config.model_type: config for config in (LlamaConfig, MistralConfig, MixtralConfig)}
_OWN = {config.model_type: config for config in (TurboSparseMistralConfig, TurboSparseMixtralConfig)}


def check_model_folder(folder: str | Path) -> dict[str, Any]:
    """Returns a model folder's configuration as a mapping, having read no weight.

    Raises:
        ModelError: Not a folder of a known architecture with safetensors weights.
    """
    values = _read_json(Path(folder))
    model_type = values["model_type"]
    known = (*_SWIGLU, *_OWN, *RELEASED_TYPES)
    if model_type not in known:
        remedy = "give a model of such an architecture"
        raise ModelError("model_type", model_type, f"one of {', '.join(known)}", remedy)
    if values.get("quantization_config") is not None:
        remedy = "give the model from before quantisation"
        raise ModelError("quantization_config", values["quantization_config"], "no quantisation", remedy)
    if model_type in _SWIGLU:
        _check_is_plain_swiglu(values)
    find_tensors(Path(folder))
    return values


def load_model(folder: str | Path) -> PreTrainedModel:
    """Returns the folder's model as one of our classes, in the folder's own dtype, in eval mode.

    A Llama, Mistral or Mixtral folder becomes the same model with `activation: swiglu`; a released
    TurboSparse folder becomes the same model under our names.

    Raises:
        ModelError: Not a folder of a known architecture, or weights are missing or left over.
    """
    config, tensors = open_folder(folder)
    weights = {name: read_tensor(tensor) for name, tensor in tensors.items()}
    with _odd_values_refused(Path(folder)):
        model = assemble(config, weights)
        if (Path(folder) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
        dtype = config.dtype or model.get_input_embeddings().weight.dtype
        return cast_weights(model, dtype).eval()


def open_folder(folder: str | Path) -> tuple[OurConfig, dict[str, StoredTensor]]:
    """Returns what `load_model` would load: our configuration, and where each of our tensors lies.

    Raises:
        ModelError: As `load_model`.
    """
    values, stored = check_model_folder(folder), find_tensors(Path(folder))
    _check_counts(values, stored)
    with _odd_values_refused(Path(folder)):
        config = _config_of(values, stored)
        return config, to_ours(stored, config)


def as_turbosparse(model: PreTrainedModel, activation: str) -> PreTrainedModel:
    """Returns `model` (Llama, Mistral, Mixtral or ours) as our class with another activation.

    The result shares the given model's weights: every one stays bit for bit.
    """
    converted = assemble(our_config(model.config, activation), model.state_dict())
    converted.generation_config = model.generation_config
    return cast_weights(converted, model.dtype)


def our_config(config: PretrainedConfig, activation: str) -> OurConfig:
    """Returns `config` (Llama's, Mistral's, Mixtral's or ours) as ours with another activation.

    Every field that both know is carried over, rotary scaling included; Llama has no sliding window.
    """
    config_class = TurboSparseMixtralConfig if isinstance(config, MixtralConfig) else TurboSparseMistralConfig
    names = [field.name for field in fields(config_class)]
    values = {name: getattr(config, name) for name in names if hasattr(config, name)}
    values |= {
        "activation": activation,
        "hidden_act": "silu" if activation == "swiglu" else "relu",
        "sliding_window": getattr(config, "sliding_window", None),
        "architectures": None,
    }
    return config_class(**values)


def save_model(model: PreTrainedModel, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Writes config.json and safetensors shards of at most 5 GB."""
    model.save_pretrained(folder, state_dict=state_dict, max_shard_size="5GB")


def assemble(config: OurConfig, state_dict: dict[str, Tensor]) -> PreTrainedModel:
    """Returns our model with these very tensors."""
    model = on_meta(config)
    if config.tie_word_embeddings:
        state_dict = state_dict | {"lm_head.weight": state_dict["model.embed_tokens.weight"]}
    model.load_state_dict(state_dict, strict=True, assign=True)
    restore_buffers(model)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Casts in place and returns `model`; rotary frequencies stay fp32, as transformers keeps them."""
    model.to(dtype)
    # A bf16 frequency is off by up to 0.2%: up to eight radians at position 4,096.
    restore_buffers(model)
    return model


def restore_buffers(model: PreTrainedModel) -> None:
    """Computes the buffers that no checkpoint holds: rotary frequencies, fp32."""
    with torch.device(model.device):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


@contextmanager
def _odd_values_refused(folder: Path) -> Iterator[None]:
    """Blames the configuration for whatever transformers' classes raise over values that make no model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        remedy = f"fetch it again ({error})"
        raise ModelError("config.json", str(folder), "values that make a model", remedy) from error


def _config_of(values: dict[str, Any], stored: dict[str, StoredTensor]) -> OurConfig:
    model_type = values["model_type"]
    if model_type in RELEASED_TYPES:
        return config_from_released(values, stored)
    theirs = (_SWIGLU | _OWN)[model_type].from_dict(values)
    return our_config(theirs, getattr(theirs, "activation", "swiglu"))


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "model folder",
            str(folder),
            "a Hugging Face model folder with config.json",
            f"check the path ({error})",
        ) from error
    return values


def _check_counts(values: dict[str, Any], stored: dict[str, StoredTensor]) -> None:
    """Refuses more layers or experts than there are tensors, before anybody begins to build them."""
    per_expert = any(".block_sparse_moe." in name for name in stored)
    for name in ("num_hidden_layers", *(("num_local_experts",) if per_expert else ())):
        if isinstance(values.get(name), int) and values[name] > len(stored):
            remedy = "give a folder whose weights match its config.json"
            raise ModelError(name, values[name], f"at most the folder's {len(stored)} tensors", remedy)


def _check_is_plain_swiglu(values: dict[str, Any]) -> None:
    expected = {
        "hidden_act": ("silu", "swish", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    }
    for name, allowed in expected.items():
        if values.get(name) not in allowed:
            raise ModelError(name, values[name], f"{allowed[0]}", "give a plain SwiGLU model without biases")
