"""Memory traced on a few layers against the whole model, and what fits."""

from dataclasses import replace

import pytest
import torch

from turbosparse.config import PredictorConfig
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.plan.memory import measure_pass, rank_memory
from turbosparse.plan.microbatch import largest_microbatch
from turbosparse.plan.parameters import count_parameters, model_on_meta
from turbosparse.plan.trace import LiveBytes, StepShape, trace_step

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
DENSE = TurboSparseMistralConfig(**SHAPE)
EXPERTS = TurboSparseMixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
STEP = StepShape(128, 2, 1, "bf16")


def test_only_what_operations_make_and_keep_is_counted():
    given = torch.ones(1_000)
    with LiveBytes([given]) as live:
        view = given.view(10, 100)
        first = view + 1
        again = first.t()
        del first
        second = again + 1
        del again, second
        third = given + 1
    assert live.peak_bytes == 2 * third.untyped_storage().nbytes()


@pytest.mark.parametrize(
    ("config", "num_ranks", "checkpointing"),
    [(DENSE, 1, True), (DENSE, 4, False), (EXPERTS, 1, False), (EXPERTS, 4, True)],
)
def test_a_few_layers_foretell_the_whole_model(config, num_ranks, checkpointing):
    step = replace(STEP, num_ranks=num_ranks, activation_checkpointing=checkpointing)
    memory = rank_memory(config, measure_pass(config, step), num_ranks, 2)
    planned = memory.activations + memory.logits + memory.working + memory.gathered
    assert planned == pytest.approx(trace_step(config, step, config.num_hidden_layers), rel=0.02)


def test_parts_follow_from_the_parameters():
    num_parameters = count_parameters(model_on_meta(DENSE)).total
    memory = rank_memory(DENSE, measure_pass(DENSE, STEP), 1, 2)
    assert memory.weights == memory.gradients == memory.optimizer // 2 == 4 * num_parameters
    assert memory.gathered == memory.reused == memory.predictor == 0
    single = rank_memory(DENSE, measure_pass(DENSE, STEP), 1, 1)
    assert memory.total - memory.gradients <= single.total < memory.total


def test_checkpointing_keeps_the_input_of_each_layer_and_little_else():
    plain = measure_pass(DENSE, replace(STEP, precision="fp32"))
    checkpointed = measure_pass(DENSE, replace(STEP, precision="fp32", activation_checkpointing=True))
    assert checkpointed.layer == 2 * 128 * 64 * 4
    assert plain.layer > 8 * checkpointed.layer


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_what_predictors_keep_grows_with_tokens_and_routed_experts(config):
    config = type(config)(**{**config.to_dict(), "predictor_rank": 16})
    predictor = PredictorConfig(rank=16)
    kept = measure_pass(config, STEP, predictor).predictor_layer
    doubled = measure_pass(config, replace(STEP, microbatch_sequences=4), predictor).predictor_layer
    assert doubled == pytest.approx(2 * kept, abs=2)
    routed = 2 if config.model_type == "turbosparse_mixtral" else 1
    gradient_of_logits = routed * 2 * 128 * 192 * 2
    assert gradient_of_logits < kept < 3 * gradient_of_logits


@pytest.mark.parametrize("num_ranks", [4])
def test_the_microbatch_found_fits_and_the_next_does_not(num_ranks):
    step, limit_bytes = replace(STEP, num_ranks=num_ranks), 40 * 2**20
    found = largest_microbatch(DENSE, step, 64, limit_bytes, None)
    assert found is not None
    fitting, memory = found
    assert 1 < fitting.microbatch_sequences < 64
    exact = rank_memory(DENSE, measure_pass(DENSE, fitting), num_ranks, 2)
    assert exact.total <= memory.total <= limit_bytes
    assert largest_microbatch(DENSE, step, 1, 2**20, None) is None
    larger = replace(fitting, microbatch_sequences=2 * fitting.microbatch_sequences)
    assert rank_memory(DENSE, measure_pass(DENSE, larger), num_ranks, 2).total > limit_bytes


def test_more_ranks_hold_less_but_gather_the_same_layers():
    few, many = (
        rank_memory(EXPERTS, measure_pass(EXPERTS, replace(STEP, num_ranks=n)), n, 2) for n in (4, 16)
    )
    assert many.weights == pytest.approx(few.weights / 4, rel=0.05)
    assert many.activations == few.activations
    assert many.gathered > few.gathered / 2
