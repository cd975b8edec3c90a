"""Model folders on disk: Hugging Face layout, safetensors only, no code from outside executed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig, PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM

OWN_TYPES = (TurboSparseMistralConfig.model_type, TurboSparseMixtralConfig.model_type)
SWIGLU_TYPES = (LlamaConfig.model_type, MistralConfig.model_type, MixtralConfig.model_type)

_SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)
_MIXTRAL_FIELDS = ("num_experts_per_tok", "num_local_experts", "router_aux_loss_coef", "router_jitter_noise")


def check_model_folder(folder: str | Path) -> dict[str, Any]:
    """Returns a model folder's configuration as a mapping, having read no weight.

    Raises:
        ModelError: Not a folder of a known architecture with safetensors weights.
    """
    path = Path(folder)
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "model folder",
            str(folder),
            "a Hugging Face model folder with config.json",
            f"check the path ({error})",
        ) from error
    if model_type not in (*OWN_TYPES, *SWIGLU_TYPES):
        known = ", ".join((*SWIGLU_TYPES, *OWN_TYPES))
        raise ModelError("model_type", model_type, f"one of {known}", "give a model of such an architecture")
    if model_type in SWIGLU_TYPES:
        _check_is_plain_swiglu(config)
    _check_weights(path)
    return config


def load_model(folder: str | Path) -> PreTrainedModel:
    """Returns the folder's model as one of our classes, in the folder's own dtype, in eval mode.

    A Llama, Mistral or Mixtral folder becomes the same model with `activation: swiglu`.

    Raises:
        ModelError: Not a folder of a known architecture, or weights are missing or left over.
    """
    config = check_model_folder(folder)
    model, report = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    problems = {name: sorted(found) for name, found in report.items() if found and name != "error_msgs"}
    if problems:
        remedy = "give a folder whose weights match its config.json"
        raise ModelError("weights", problems, f"those of {config['model_type']}", remedy)
    return (model if config["model_type"] in OWN_TYPES else as_turbosparse(model, "swiglu")).eval()


def as_turbosparse(model: PreTrainedModel, activation: str) -> PreTrainedModel:
    """Returns `model` (Llama, Mistral, Mixtral or ours) as our class with another activation.

    The result shares the given model's weights: every one stays bit for bit.
    """
    config = _our_config(model.config, activation)
    our_class: Any = (
        TurboSparseMixtralForCausalLM
        if isinstance(config, TurboSparseMixtralConfig)
        else TurboSparseMistralForCausalLM
    )
    with torch.device("meta"):
        converted = our_class(config)
    converted.load_state_dict(model.state_dict(), strict=True, assign=True)
    # Buffers that no checkpoint holds (rotary frequencies) are still on the meta device.
    converted.model.rotary_emb = type(converted.model.rotary_emb)(config)
    if config.tie_word_embeddings:
        converted.tie_weights()
    converted.generation_config = model.generation_config
    return converted.to(model.dtype)


def save_model(model: PreTrainedModel, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Writes config.json and safetensors shards of at most 5 GB."""
    model.save_pretrained(folder, state_dict=state_dict, max_shard_size="5GB")


def _our_config(config: Any, activation: str) -> TurboSparseMistralConfig | TurboSparseMixtralConfig:
    is_moe = isinstance(config, MixtralConfig)
    fields = [*_SHARED_FIELDS, *(_MIXTRAL_FIELDS if is_moe else ())]
    values = {name: getattr(config, name) for name in fields}
    values["hidden_act"] = "relu" if activation == "drelu" else "silu"
    values["sliding_window"] = getattr(config, "sliding_window", None)
    values["predictor_rank"] = getattr(config, "predictor_rank", None)
    our_config = TurboSparseMixtralConfig if is_moe else TurboSparseMistralConfig
    return our_config(**values, activation=activation)


def _check_is_plain_swiglu(config: dict[str, Any]) -> None:
    expected = {
        "hidden_act": ("silu", "swish", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    }
    for name, allowed in expected.items():
        if config.get(name) not in allowed:
            raise ModelError(name, config[name], f"{allowed[0]}", "give a plain SwiGLU model without biases")


def _check_weights(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        remedy = "convert the weights to safetensors: pickled ones are never loaded"
        raise ModelError("weights", str(folder), "*.safetensors files", remedy)
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass
        except Exception as error:  # safetensors raises its own kinds, unexported
            raise ModelError(
                "weights", str(shard), "a whole safetensors file", f"fetch it again ({error})"
            ) from error
