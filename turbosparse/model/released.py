"""The configurations of the released TurboSparse models, read as ours and written from ours.

Their tensors are `layout.py`'s matter. No code that such a folder names in `auto_map` is run.
"""

from typing import Any

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import OurConfig, pieces
from turbosparse.model.shards import StoredTensor

RELEASED_DENSE = "bamboo"
RELEASED_MOE = "turbosparsemixtral"
RELEASED_TYPES = (RELEASED_DENSE, RELEASED_MOE)

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "sliding_window",
    "attention_dropout",
)
_MOE_FIELDS = (
    *_FIELDS,
    "num_experts_per_tok",
    "num_local_experts",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
)
_READ_ONLY_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "dtype", "head_dim")


def config_from_released(values: dict[str, Any], stored: dict[str, StoredTensor]) -> OurConfig:
    """Returns our configuration of a released model; predictors' ranks are those of its tensors.

    Args:
        values: The released config.json.
        stored: The released tensors by name.

    Raises:
        ModelError: Some layers have predictors and others none, or a dense model is not dReLU.
    """
    is_moe = values["model_type"] == RELEASED_MOE
    if not is_moe and values.get("hidden_act") != "relu":
        remedy = "give a released TurboSparse-Mistral"
        raise ModelError("hidden_act", values.get("hidden_act"), "relu, as dReLU models have it", remedy)
    known = (*(_MOE_FIELDS if is_moe else _FIELDS), *_READ_ONLY_FIELDS)
    config_class = TurboSparseMixtralConfig if is_moe else TurboSparseMistralConfig
    config: OurConfig = config_class.from_dict(
        {name: values[name] for name in known if name in values} | {"hidden_act": "relu"}
    )
    config.activation = "drelu"
    config.predictor_rank = _ranks(config, stored)
    return config


def config_to_released(config: OurConfig) -> dict[str, Any]:
    """Returns the released models' config.json for ours, without their modelling code.

    Raises:
        ModelError: The model has something that the released layout can't say.
    """
    is_moe = isinstance(config, TurboSparseMixtralConfig)
    _check_expressible(config, is_moe)
    values = config.to_dict()
    return {
        "architectures": ["TurboSparseMixtralForCausalLM" if is_moe else "BambooForCausalLM"],
        "model_type": RELEASED_MOE if is_moe else RELEASED_DENSE,
        "hidden_act": "relu",
        **{name: values[name] for name in (_MOE_FIELDS if is_moe else _FIELDS)},
        "rope_theta": config.rope_parameters["rope_theta"],
        "torch_dtype": values.get("dtype"),
    }


def _ranks(config: OurConfig, stored: dict[str, StoredTensor]) -> int | list[int] | None:
    is_moe = isinstance(config, TurboSparseMixtralConfig)
    names = [_first_predictor(layer, is_moe) for layer in range(config.num_hidden_layers)]
    missing = [name for name in names if name not in stored]
    if len(missing) == len(names):
        return None
    if missing:
        remedy = "fetch the folder's weights again"
        raise ModelError("weights", missing, "predictors in every layer, or in none", remedy)
    ranks = [stored[name].shape[0] for name in names]
    return ranks[0] if len(set(ranks)) == 1 else ranks


def _first_predictor(layer: int, is_moe: bool) -> str:
    ffn = f"model.layers.{layer}.mlp"
    if not is_moe:
        return f"{ffn}.predictor.fc1.weight"
    return next(iter(pieces(f"{ffn}.experts.predictor.fc1", (1, 1, 1), per_expert=True)))


def _check_expressible(config: OurConfig, is_moe: bool) -> None:
    head_size = config.hidden_size // config.num_attention_heads
    thresholds = config.predictor_threshold
    expected = {
        "activation": (config.activation, "drelu"),
        "predictor_input": (config.predictor_input, "post_norm" if is_moe else "pre_norm"),
        "predictor_threshold": (set(thresholds if isinstance(thresholds, list) else [thresholds]), {0.0}),
        "rope_type": (config.rope_parameters.get("rope_type", "default"), "default"),
        "head_dim": (config.head_dim or head_size, head_size),
    }
    for name, (value, only) in expected.items():
        if value != only:
            remedy = "keep the folder as it is: the released layout has no field for another"
            if name == "predictor_threshold":
                remedy += "; tune with finetune.predictor.threshold.keep_zero=true to export it so"
            raise ModelError(name, value, f"{only}", remedy)
