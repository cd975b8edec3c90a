"""Hours, checkpoints and the budget, against arithmetic by hand."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from turbosparse.cli import app
from turbosparse.config import Placement, resolve
from turbosparse.config.levers import SequenceWarmupConfig
from turbosparse.errors import ConfigError
from turbosparse.plan.budget import check_budget
from turbosparse.plan.plan import Hardware, plan_stages
from turbosparse.plan.schedule import as_decoder, schedule, training_stages
from turbosparse.plan.storage import Reliability, plan_storage


def pretraining(preset: str):
    config = resolve(preset)
    stage = next(stage for stage in training_stages(config) if stage.name == "pretrain")
    return stage, as_decoder(config.model.decoder_fields(config.data.vocab_size), None)


def test_hours_are_operations_over_speed():
    stage, model = pretraining("mistral-7b")
    time = schedule(stage, model, Placement(num_nodes=8, num_ranks=8))
    assert time.num_tokens == 17_882 * 2_048 * 4_096
    assert 6 * 7.1e9 < time.flops_per_token < 7 * 7.1e9
    assert time.gpu_hours == pytest.approx(
        time.num_tokens * time.flops_per_token / (312e12 * 0.45) / 3_600, rel=1e-9
    )
    assert time.hours == pytest.approx(time.gpu_hours / 64)
    assert time.seconds_per_step * time.num_steps == pytest.approx(time.hours * 3_600)


def test_short_sequences_at_first_save_attention():
    stage, model = pretraining("mistral-7b")
    warmup = SequenceWarmupConfig(length_tokens=512, share_of_steps=0.75)
    shorter = replace(stage, recipe=stage.recipe.model_copy(update={"sequence_warmup": warmup}))
    placement = Placement(num_nodes=8, num_ranks=8)
    whole, found = schedule(stage, model, placement), schedule(shorter, model, placement)
    cut = schedule(replace(stage, sequence_length=512), model, placement).flops_per_token
    assert found.num_tokens == whole.num_tokens
    assert found.flops_per_token == pytest.approx(0.75 * cut + 0.25 * whole.flops_per_token, abs=1)


def test_no_other_interval_is_expected_to_lose_less():
    stage, model = pretraining("mixtral-8x7b")
    time = schedule(stage, model, Placement(num_nodes=8, num_ranks=8))
    failing = Reliability(storage_bytes_per_second=2e9, node_failure_hours=100)
    best = plan_storage(47_000_000_000, 0, 2, time, 8, failing, 2)
    seconds, failure_seconds = best.checkpoint_seconds, 100 * 3_600 / 8
    for other in (best.checkpoint_interval_steps * factor for factor in (0.5, 0.9, 1.1, 2)):
        interval = other * time.seconds_per_step
        assert best.lost_ratio < seconds / interval + interval / (2 * failure_seconds)
    assert best.checkpoint_bytes == 12 * 47_000_000_000
    assert best.checkpoints_kept_bytes == 2 * best.checkpoint_bytes
    safer = plan_storage(47_000_000_000, 0, 2, time, 1, failing, 2)
    assert safer.checkpoint_interval_steps > best.checkpoint_interval_steps


def test_a_run_over_its_budget_is_refused_with_what_it_would_take():
    config = resolve("300m")
    total = sum(
        schedule(stage, pretraining("300m")[1], Placement()).gpu_hours for stage in training_stages(config)
    )
    check_budget(config, Placement())
    check_budget(config, Placement(max_gpu_hours=1.1 * total))
    with pytest.raises(ConfigError, match="max_gpu_hours") as refused:
        check_budget(config, Placement(max_gpu_hours=0.9 * total))
    assert "pretrain" in refused.value.expected
    check_budget(config, Placement(max_gpu_hours=0.9 * total, gpu_peak_teraflops=989))


def test_the_budget_counts_the_source_folders_own_model(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, '
        '"num_attention_heads": 4}'
    )
    check_budget(resolve("mistral-7b"), Placement(source=str(tmp_path), max_gpu_hours=10))
    with pytest.raises(ConfigError):
        check_budget(resolve("mistral-7b"), Placement(max_gpu_hours=10))


def test_a_stage_without_memory_says_why():
    for placement, why in (
        (Placement(num_ranks=3), "divided among 3"),
        (Placement(num_ranks=1, device_batch_size_sequences=3), "do not divide"),
    ):
        plans = plan_stages(resolve("tiny-moe"), placement, Hardware())
        assert [plan.name for plan in plans] == ["base", "pretrain", "finetune"]
        assert all(plan.memory is None and why in plan.why for plan in plans)


def test_the_command_prints_what_its_help_says():
    result = CliRunner().invoke(app, ["plan", "--preset", "tiny", "--gpus-per-node", "2", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["num_gpus"] == 2
    assert list(report["stages"]) == ["base", "pretrain", "finetune"]
    assert all(one["why"] is None for one in report["stages"].values())
    stage = report["stages"]["finetune"]
    assert stage["parameters"]["predictor"] > 0
    assert stage["step"]["microbatch_sequences"] * stage["num_microbatches"] == 2
    parts = {name: value for name, value in stage["memory"].items() if name != "total"}
    assert sum(parts.values()) - 2 * parts["reused"] == stage["memory"]["total"]
    assert stage["parameters"]["total"] == sum(
        value for name, value in stage["parameters"].items() if name != "total"
    )
    assert report["gpu_hours"] == pytest.approx(
        sum(one["schedule"]["gpu_hours"] for one in report["stages"].values())
    )


@pytest.mark.slow  # traces true widths: half a minute of CPU time
def test_mixtral_fits_on_64_gpus_of_80_gib_and_not_on_8():
    config = resolve("mixtral-8x7b")
    pretrain = plan_stages(config, Placement(num_nodes=8, num_ranks=8), Hardware())[0]
    assert pretrain.largest_share_ratio < 1.1
    assert pretrain.why is None
    assert pretrain.memory.total < 74 * 2**30
    alone = plan_stages(config, Placement(num_ranks=8), Hardware())[0]
    assert alone.memory is None
    assert "add GPUs" in alone.why
