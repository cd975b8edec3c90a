"""The formula against what torch counts while the model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from turbosparse.analysis.flops import forward_flops_per_token, training_flops_per_token
from turbosparse.model import (
    TurboSparseMistralConfig,
    TurboSparseMistralForCausalLM,
    TurboSparseMixtralConfig,
    TurboSparseMixtralForCausalLM,
)

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": None,
}
MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}


def mixtral() -> TurboSparseMixtralForCausalLM:
    torch.manual_seed(0)
    config = TurboSparseMixtralConfig(**SHAPE, **MIXTRAL, experts_implementation="eager")
    return TurboSparseMixtralForCausalLM(config)


def counted_flops(model, num_tokens: int) -> tuple[int, int]:
    """What torch counts of one training step, scores and values of attention apart."""
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.zeros(1, num_tokens, dtype=torch.int64), use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
    # torch counts attention's products as if every token saw every key.
    counts = counter.get_flop_counts()["Global"]
    attention = sum(count for operator, count in counts.items() if "scaled_dot_product" in str(operator))
    return sum(counts.values()) - attention, attention


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
def test_matrix_products_are_what_torch_counts(architecture):
    num_tokens, is_moe = 16, architecture == "mixtral"
    model = mixtral() if is_moe else TurboSparseMistralForCausalLM(TurboSparseMistralConfig(**SHAPE))
    products, _ = counted_flops(model, num_tokens)
    scores_and_values = 3 * 3 * 4 * 4 * 8 * (num_tokens + 1) // 2  # 3 layers, forward and twice backward
    expected = training_flops_per_token(model.config, num_tokens) - scores_and_values
    assert products == num_tokens * expected


def test_attention_counts_the_keys_that_a_token_sees():
    whole = TurboSparseMistralConfig(**SHAPE)
    window = TurboSparseMistralConfig(**{**SHAPE, "sliding_window": 4})
    fewer = forward_flops_per_token(whole, 64) - forward_flops_per_token(window, 64)
    seen_by_all = sum(range(1, 65))
    seen_in_window = sum(min(position, 4) for position in range(1, 65))
    assert fewer == pytest.approx(3 * 4 * 4 * 8 * (seen_by_all - seen_in_window) / 64, abs=3)


def test_predictors_of_routed_experts_count():
    plain = TurboSparseMixtralConfig(**SHAPE, **MIXTRAL)
    predicting = TurboSparseMixtralConfig(**SHAPE, **MIXTRAL, predictor_rank=[2, 4, 6])
    more = forward_flops_per_token(predicting, 8) - forward_flops_per_token(plain, 8)
    assert more == 2 * 2 * (2 + 4 + 6) * (32 + 48)
