"""Predictors and top-k masks act on every token that is scored, and are gone afterwards."""

import pytest
import torch

from turbosparse.errors import ConfigError, ModelError
from turbosparse.evaluation.modes import Computation
from turbosparse.evaluation.scoring import score
from turbosparse.evaluation.trees import ScoredSequence
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM

EVERYTHING, NOTHING = -1e9, 1e9


def make_model(**fields):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "activation": "drelu",
    }
    return TurboSparseMistralForCausalLM(TurboSparseMistralConfig(**(shape | fields))).eval()


def log_probs(model, computation):
    context = list(range(3, 20))
    sequences = [ScoredSequence.of(context, choice, 64) for choice in ([5, 6], [7], [8, 9, 10])]
    computation.check(model)
    with computation.applied_to(model):
        return torch.cat([found.log_probs for found in score(model, sequences)])


def test_predictors_that_expect_everything_change_nothing_and_those_that_expect_nothing_do():
    model = make_model(predictor_rank=8, predictor_threshold=EVERYTHING)
    dense = log_probs(model, Computation())
    torch.testing.assert_close(log_probs(model, Computation("predicted")), dense)
    model.config.predictor_threshold = NOTHING
    without_ffns = log_probs(model, Computation("predicted"))
    assert not torch.allclose(without_ffns, dense, atol=1e-3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
    torch.testing.assert_close(log_probs(model, Computation()), without_ffns)


def test_exact_probabilities_are_the_dense_ones():
    model = make_model()
    torch.testing.assert_close(log_probs(model, Computation("exact")), log_probs(model, Computation()))


def test_a_top_k_mask_of_all_changes_nothing_and_of_few_does_until_the_block_ends():
    model = make_model()
    dense = log_probs(model, Computation())
    torch.testing.assert_close(log_probs(model, Computation(topk_ratio=1.0)), dense)
    assert not torch.allclose(log_probs(model, Computation(topk_ratio=0.05)), dense, atol=1e-3)
    torch.testing.assert_close(log_probs(model, Computation()), dense)


@pytest.mark.parametrize(
    ("computation", "fields", "error", "message"),
    [
        (Computation("predicted"), {}, ModelError, "activation predictors"),
        (Computation("exact"), {"activation": "swiglu", "hidden_act": "silu"}, ModelError, "drelu"),
        (Computation("exact", 0.5), {}, ConfigError, "no top-k ratio"),
        (Computation(topk_ratio=0.0), {}, ConfigError, r"fraction in \(0, 1\]"),
        (Computation(topk_ratio=1.5), {}, ConfigError, r"fraction in \(0, 1\]"),
    ],
)
def test_what_a_model_can_not_do_is_refused(computation, fields, error, message):
    with pytest.raises(error, match=message):
        computation.check(make_model(**fields))
