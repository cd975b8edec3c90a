"""What the engine can't run is refused by name, and what it runs otherwise is said."""

import pytest

from turbosparse.errors import ConfigError, ModelError
from turbosparse.export.powerinfer import PowerInferOptions, check_quantization
from turbosparse.export.powerinfer.contract import check_runnable, common_threshold, engine_thresholds
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig

FIELDS = {
    "hidden_size": 128,
    "intermediate_size": 2_048,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "sliding_window": None,
    "predictor_rank": 32,
}


def config(**fields):
    return TurboSparseMistralConfig(**FIELDS | fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation": "swiglu"}, "activation: 'swiglu'"),
        ({"predictor_rank": None}, "predictor_rank: None"),
        ({"predictor_input": "post_norm"}, "predictor_input: 'post_norm'"),
        ({"head_dim": 64}, "head_dim: 64"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type: 'linear'",
        ),
        ({"hidden_size": 140, "num_attention_heads": 2}, "hidden_size: 140"),
        ({"intermediate_size": 2_044}, "intermediate_size: 2044"),
        ({"predictor_rank": [32, 36, 32]}, "predictor_rank: 4"),
        ({"predictor_threshold": [0.5, -0.5, 0.5]}, "predictor_threshold: .*global"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused_by_name(fields, named):
    with pytest.raises(ModelError, match=named):
        check_runnable(config(**fields), "f16")


def test_experts_are_refused():
    with pytest.raises(ModelError, match=r"turbosparse_mixtral.*no mixture of experts"):
        check_runnable(TurboSparseMixtralConfig(**FIELDS), "f16")


@pytest.mark.parametrize("width", [{"hidden_size": 136, "num_attention_heads": 2}, {"predictor_rank": 40}])
def test_q4_0_needs_multiples_of_32_where_f16_needs_multiples_of_8(width):
    check_runnable(config(**width), "f16")
    with pytest.raises(ModelError, match=r"multiple of 32.*f16"):
        check_runnable(config(**width), "q4_0")


def test_the_key_and_value_width_counts_too():
    """Two heads of 8 share one of keys and values: that is 8 wide, and no multiple of 32."""
    narrow = config(hidden_size=64, num_attention_heads=8, num_key_value_heads=1)
    with pytest.raises(ModelError, match="key and value width: 8"):
        check_runnable(narrow, "q4_0")


@pytest.mark.parametrize("name", ["q8_0", "q4_k_m", "f32", "F16"])
def test_other_quantisations_are_refused(name):
    with pytest.raises(ModelError, match=f"{name}.*garbage"):
        check_quantization(name)


def test_a_model_as_the_engine_has_it_has_no_differences():
    assert check_runnable(config(), "q4_0") == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sliding_window": 128}, "sliding_window 128"),
        ({"intermediate_size": 992}, "intermediate_size 992"),
        ({"predictor_threshold": [0.5, -0.5, 0.5], "predictor_global_threshold": 0.25}, "threshold 0.25"),
    ],
)
def test_differences_are_said(fields, said):
    (difference,) = check_runnable(config(**fields), "f16")
    assert said in difference


def test_a_window_as_long_as_the_context_makes_no_difference():
    assert check_runnable(config(sliding_window=256), "f16") == []


def test_without_predictors_only_the_dense_file_can_be_written():
    assert check_runnable(config(predictor_rank=None, intermediate_size=992), "f16", is_sparse=False) == []


def test_scaling_keeps_thresholds_of_one_sign():
    threshold, scales = common_threshold(config(predictor_threshold=[-1.0, -4.0, -0.5]))
    assert (threshold, scales) == (-1.0, [1.0, 0.25, 2.0])
    assert engine_thresholds(config(predictor_threshold=[-1.0, -4.0, -0.5])) == [-1.0, -4.0, -0.5]
    assert common_threshold(config(predictor_threshold=0.0)) == (0.0, [1.0, 1.0, 1.0])


def test_options_that_need_others(tmp_path):
    with pytest.raises(ConfigError, match="--vram-gib"):
        PowerInferOptions(vram_gib=4.0)
    with pytest.raises(ConfigError, match="--engine-text"):
        PowerInferOptions(engine=tmp_path)
