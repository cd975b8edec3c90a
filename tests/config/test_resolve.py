"""Presets are the paper's figures; overrides reach them; mistakes are named."""

import pytest
import yaml

from turbosparse.config import PRESET_NAMES, TABLE_4_PERCENT, read_overrides, resolve
from turbosparse.config.resolve import read_preset
from turbosparse.errors import ConfigError


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_every_preset_is_a_valid_run(preset):
    assert resolve(preset).pretrain.num_steps > 0


def test_table_4_sums_to_exactly_100():
    assert len(TABLE_4_PERCENT) == 17
    assert round(sum(TABLE_4_PERCENT.values()), 10) == 100


@pytest.mark.parametrize("preset", ["mistral-7b", "mixtral-8x7b"])
def test_7b_presets_are_table_5(preset):
    config = resolve(preset)
    recipe = config.pretrain
    assert config.data.sequence_length == 4096
    assert recipe.batch_size_sequences == 2048
    assert (recipe.learning_rate, recipe.learning_rate * recipe.final_learning_rate_ratio) == (5e-5, 5e-6)
    assert recipe.warmup_steps == 1000
    assert (recipe.adam_beta1, recipe.adam_beta2) == (0.9, 0.95)
    tokens_per_step = recipe.batch_size_sequences * config.data.sequence_length
    assert 0 <= recipe.num_steps * tokens_per_step - 150e9 < tokens_per_step
    assert config.data.mixture == TABLE_4_PERCENT


def test_300m_is_tables_11_and_12():
    config = resolve("300m")
    model, recipe = config.model, config.pretrain
    assert (model.hidden_size, model.num_layers, model.num_heads) == (1024, 24, 16)
    assert (model.context_length, config.data.vocab_size) == (2048, 32_000)
    assert (recipe.batch_size_sequences, recipe.learning_rate, recipe.warmup_steps) == (128, 1e-4, 2000)
    assert (recipe.adam_beta1, recipe.adam_beta2, recipe.weight_decay) == (0.9, 0.95, 0.01)
    assert config.data.mixture == {"fineweb": 100}
    assert config.data.num_tokens == 5e9


def test_a_dry_run_keeps_widths_and_the_warmup_fraction():
    true, dry = resolve("300m"), resolve("300m", dry_run=True)
    assert dry.model == true.model
    assert dry.pretrain.num_steps <= 60
    assert dry.pretrain.batch_size_sequences * dry.data.sequence_length == 1024
    assert dry.finetune.num_steps <= 20
    fraction = true.pretrain.warmup_steps / true.pretrain.num_steps
    assert dry.pretrain.warmup_steps == round(fraction * dry.pretrain.num_steps) == 3


def test_overrides_apply_after_the_dry_run_block():
    config = resolve("300m", {"pretrain": {"num_steps": 7, "warmup_steps": 1}}, dry_run=True)
    assert config.pretrain.num_steps == 7
    assert config.finetune.num_steps == 10


def test_a_mixture_replaces_and_does_not_merge():
    config = resolve("tiny", {"data": {"mixture": {"wanjuan-cc": 60, "github-code": 40}}})
    assert set(config.data.mixture) == {"wanjuan-cc", "github-code"}


def test_set_wins_over_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"pretrain": {"num_steps": 5, "learning_rate": 1e-3}}))
    overrides = read_overrides(str(path), ["pretrain.learning_rate=1e-4"])
    assert overrides == {"pretrain": {"num_steps": 5, "learning_rate": 1e-4}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pretrain": {"steps": 3}}, r"pretrain\.steps.*known field.*num_steps"),
        ({"pretrane": {}}, r"pretrane.*known field.*pretrain"),
        ({"pretrain": {"num_steps": 0}}, r"pretrain\.num_steps: 0"),
        ({"pretrain": {"learning_rate": float("nan")}}, r"pretrain\.learning_rate"),
        ({"pretrain": {"num_steps": 2}}, r"pretrain\.warmup_steps.*less than num_steps=2"),
        ({"data": {"mixture": {"wanjuan-cc": 60}}}, r"data\.mixture.*sum to 60.*sum to 100"),
        ({"model": {"num_heads": 7}}, r"model\.hidden_size.*multiple of 7"),
        ({"convert": {"base": None}}, r"convert\.base"),
        (
            {"pretrain": {"sequence_warmup": {"length_tokens": 48}}},
            r"pretrain\.sequence_warmup\.length_tokens: 48.*divisor of data\.sequence_length",
        ),
        ({"finetune": {"sequence_warmup": {"length_tokens": 8}}}, r"finetune\.sequence_warmup.*not cut"),
        ({"data": {"sequence_length": 4096}}, r"data\.sequence_length: 4096.*context_length=512"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides)


def test_unknown_presets_and_assignments_are_named():
    with pytest.raises(ConfigError, match=r"preset: 'huge'.*tiny-moe"):
        resolve("huge")
    with pytest.raises(ConfigError, match=r"--set: 'num_steps'"):
        read_overrides(None, ["num_steps"])
    with pytest.raises(ConfigError, match="dry run"):
        resolve("mistral-7b", dry_run=True)


def test_the_dry_run_block_is_no_field_of_the_run():
    assert "dry_run" in read_preset("tiny")
    assert "dry_run" not in resolve("tiny", dry_run=True).model_dump()
