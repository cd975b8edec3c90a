"""The dReLU benchmark measures what it says, on both sides."""

import torch
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralMLP

from turbosparse.bench.drelu import _saved_bytes, measure_drelu


def test_saved_bytes_count_each_activation_once_and_no_weight():
    """SwiGLU keeps its input, gate, silu(gate), up and their product."""
    x = torch.randn(16, 8, requires_grad=True)
    mlp = MistralMLP(MistralConfig(hidden_size=8, intermediate_size=32))
    assert _saved_bytes(mlp, x) == 4 * 16 * (8 + 4 * 32)


def test_the_ratios_are_ours_over_swiglus():
    torch._dynamo.reset()
    measured = measure_drelu(hidden_size=16, intermediate_size=64, num_tokens=32, repetitions=3)
    if not torch.cuda.is_available():
        # x and two tensors, against x and four (eager) or three (compiled)
        assert measured["eager"]["memory"] == (16 + 2 * 64) / (16 + 4 * 64)
        assert measured["drelu_vs_swiglu_memory"] <= 1
    assert measured["drelu_vs_swiglu_time"] == measured["compiled"]["time"] > 0
    assert measured["eager"]["seconds"] > 0
    assert measured["liger_ratio"] is not None or "liger" in measured["why"]
