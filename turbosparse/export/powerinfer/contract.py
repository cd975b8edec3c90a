"""What PowerInfer's engine can run: everything else is refused, or warned of, by name.

Reference: SJTU-IPADS/PowerInfer at commit d3ebd7c, llama.cpp and ggml.c.
"""

import math
from typing import Literal, get_args

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import OurConfig

Quantization = Literal["f16", "q4_0"]
BLOCK_SIZES: dict[Quantization, int] = {"f16": 8, "q4_0": 32}
"""What widths must be multiples of: the elements that a vector register, or a quantised block, holds."""
MAX_NEURONS_COMPUTED_WHOLE = 1_000
"""Up to this intermediate size the engine does not look at single neurons' logits."""


def check_quantization(name: str) -> Quantization:
    """Returns `name` if the engine decodes sparsely in it.

    Raises:
        ModelError: It would load the file, end with status 0, and decode garbage.
    """
    for known in get_args(Quantization):
        if name == known:
            return known
    expected = "f16 or q4_0: in any other, PowerInfer's sparse mode decodes garbage without an error"
    raise ModelError("--quantize", name, expected, "take f16, or q4_0 where memory is short")


def check_runnable(config: OurConfig, quantization: Quantization, *, is_sparse: bool = True) -> list[str]:
    """Returns what the engine will do otherwise than the model; empty where nothing.

    Args:
        config: The model's.
        quantization: Of the file's matrices.
        is_sparse: Whether the file will carry predictors, for the engine to skip neurons by.

    Raises:
        ModelError: The engine can't run the model; the message names what is in the way.
    """
    if isinstance(config, TurboSparseMixtralConfig):
        expected = "a dense model: PowerInfer's engine has no mixture of experts"
        raise ModelError("model_type", config.model_type, expected, "export it with --format hf")
    _check_form(config)
    if is_sparse:
        _check_predictors(config)
    _check_widths(config, BLOCK_SIZES[quantization], is_sparse)
    return _differences(config, is_sparse)


def common_threshold(config: OurConfig) -> tuple[float, list[float]]:
    """Returns one threshold for all layers, and what each layer's fc2 must be multiplied by for it.

    The engine knows one threshold, on raw logits. Scaling a layer's logits by a positive number scales its
    threshold, so thresholds of one sign need not be equal; for others there is the global one.

    Raises:
        ModelError: Their signs differ, and predictor_global_threshold is none.
    """
    thresholds = [config.threshold_of(layer) for layer in range(config.num_hidden_layers)]
    first = thresholds[0]
    if _have_one_sign(thresholds):
        return first, [first / value if value else 1.0 for value in thresholds]
    if config.predictor_global_threshold is None:
        expected = "thresholds of one sign, or predictor_global_threshold: PowerInfer has one for all layers"
        remedy = "set predictor_global_threshold in config.json"
        raise ModelError("predictor_threshold", thresholds, expected, remedy)
    return config.predictor_global_threshold, [1.0] * len(thresholds)


def engine_thresholds(config: OurConfig) -> list[float]:
    """Returns the thresholds by layer on the model's own logits that the exported file amounts to."""
    threshold, scales = common_threshold(config)
    return [threshold / scale for scale in scales]


def _have_one_sign(thresholds: list[float]) -> bool:
    return len({(value > 0) - (value < 0) for value in thresholds}) == 1


def _check_form(config: TurboSparseMistralConfig) -> None:
    head_size = config.hidden_size // config.num_attention_heads
    expected = {
        "activation": (config.activation, "drelu", "convert and recover it (turbosparse run pipeline)"),
        "rope_type": (
            config.rope_parameters.get("rope_type", "default"),
            "default",
            "export with --format hf",
        ),
        "head_dim": (config.head_dim or head_size, head_size, "export with --format hf"),
    }
    for name, (value, only, remedy) in expected.items():
        if value != only:
            raise ModelError(name, value, f"{only}: PowerInfer knows no other here", remedy)


def _check_predictors(config: TurboSparseMistralConfig) -> None:
    if config.predictor_rank is None:
        remedy = "train predictors (turbosparse run finetune), or take --format powerinfer-dense"
        raise ModelError("predictor_rank", None, "a model with activation predictors", remedy)
    if config.predictor_input != "pre_norm":
        expected = "pre_norm: PowerInfer's predictors read the residual stream before the FFN's RMSNorm"
        remedy = "train predictors that read it (predictor_input: pre_norm)"
        raise ModelError("predictor_input", config.predictor_input, expected, remedy)
    common_threshold(config)


def _check_widths(config: TurboSparseMistralConfig, block_size: int, is_sparse: bool) -> None:
    widths = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size}
    widths["key and value width"] = (
        config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    )
    if is_sparse:
        ranks = [config.rank_of(layer) or 0 for layer in range(config.num_hidden_layers)]
        widths["predictor_rank"] = math.gcd(*ranks)
    for name, width in widths.items():
        if width % block_size:
            remedy = "take --quantize f16" if width % BLOCK_SIZES["f16"] == 0 else "export with --format hf"
            raise ModelError(name, width, f"a multiple of {block_size}", remedy)


def _differences(config: TurboSparseMistralConfig, is_sparse: bool) -> list[str]:
    found = []
    window, context = config.sliding_window, config.max_position_embeddings
    if window is not None and window < context:
        found.append(
            f"sliding_window {window}: PowerInfer attends to the whole context of {context} tokens; "
            f"its output is the model's for texts of up to {window} tokens"
        )
    own = [config.threshold_of(layer) for layer in range(config.num_hidden_layers)]
    if is_sparse and not _have_one_sign(own):
        found.append(
            "predictor_threshold: PowerInfer has one threshold for all layers, "
            f"predictor_global_threshold {config.predictor_global_threshold} in place of those by layer"
        )
    if is_sparse and config.intermediate_size <= MAX_NEURONS_COMPUTED_WHOLE:
        found.append(
            f"intermediate_size {config.intermediate_size}: up to {MAX_NEURONS_COMPUTED_WHOLE} PowerInfer "
            "skips neurons by 128 at a time, wrongly where a logit is below -7, so nothing is gained"
        )
    return found
