"""Training in this process, on one rank: exact resumption, guarded steps, checked inputs."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from turbosparse.analysis.flops import training_flops_per_token
from turbosparse.config import TrainConfig, TrainingPlacement, WandbConfig
from turbosparse.config.levers import DistillationConfig, SequenceWarmupConfig, SparsityPenaltyConfig
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ConfigError, DataError, ModelError, TrainingDiverged, TrainingPreempted
from turbosparse.model.folder import load_model
from turbosparse.train.callbacks.validation import (
    LEAST_TOKENS,
    MOST_TOKENS,
    category_windows,
    tokens_per_category,
)
from turbosparse.train.checkpoints import CheckpointStore
from turbosparse.train.history import read_history
from turbosparse.train.job import TrainJob


@pytest.fixture
def recipe(job) -> Callable[..., TrainConfig]:
    """Changes the jobs' recipe."""
    recipe = job().recipe
    return lambda **changes: recipe.model_copy(update=changes)  # noqa: PLW0108 - not by position


def final_weights(job: TrainJob) -> dict[str, Tensor]:
    checkpoints = CheckpointStore(job.checkpoints, job.identity)
    last = checkpoints.latest()
    assert last is not None and last.step == job.recipe.num_steps
    weights = {
        name: torch.empty(tensor.shape)
        for name, tensor in last.manifest.tensors.items()
        if name.startswith("model/")
    }
    checkpoints.load(last, weights)
    return weights


def at_step(monkeypatch, step: int, act: Callable[[Tensor], Tensor]) -> None:
    """Changes what the loss is at one optimizer step (two microbatches each)."""
    from turbosparse.train.module import CausalLMTraining  # noqa: PLC0415 - see `train`

    original, calls = CausalLMTraining.loss, iter(range(10_000))

    def loss(module, outputs, batch):
        value = original(module, outputs, batch)
        if next(calls) // 2 + 1 != step:
            return value
        module.losses["language_model"] = act(module.losses["language_model"])
        return act(value)

    monkeypatch.setattr(CausalLMTraining, "loss", loss)


def test_a_preempted_run_saves_and_goes_on_as_if_it_had_not_been(train, job, monkeypatch):
    whole = job("whole")
    expected = train(whole)

    def terminate(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    preempted = job("preempted")
    with monkeypatch.context() as patch:
        at_step(patch, 3, terminate)
        with pytest.raises(TrainingPreempted, match="step 3"):
            train(preempted)
    assert CheckpointStore(preempted.checkpoints, "a" * 16).latest().step == 3, "saved outside the interval"
    assert train(preempted) == pytest.approx(expected, abs=1e-6)
    weights = final_weights(preempted)
    assert all(
        torch.allclose(weights[name], weight, atol=1e-6) for name, weight in final_weights(whole).items()
    )
    rates = [record.learning_rate for record in read_history(preempted.history_path)]
    assert rates == [record.learning_rate for record in read_history(whole.history_path)]


def test_a_step_that_is_not_finite_stops_training_before_it_is_taken(train, job, monkeypatch):
    at_step(monkeypatch, 2, lambda loss: loss * math.nan)
    with pytest.raises(TrainingDiverged, match=r"step 2: its loss is nan.*on_bad_step=skip"):
        train(job())


def test_a_skipped_step_leaves_the_model_as_it_was(train, job, recipe, monkeypatch):
    """Skipping every step must end where training began, weight decay and moments included."""
    from turbosparse.train.module import CausalLMTraining  # noqa: PLC0415 - see `train`

    original = CausalLMTraining.loss
    monkeypatch.setattr(CausalLMTraining, "loss", lambda *given: original(*given) * math.inf)
    skipping = job(recipe=recipe(on_bad_step="skip", weight_decay=0.5))
    train(skipping)
    assert all(record.is_skipped for record in read_history(skipping.history_path))
    before = load_model(skipping.model_folder).state_dict()
    for name, weight in final_weights(skipping).items():
        assert torch.equal(weight, before[name.removeprefix("model/")]), name


def test_too_many_skipped_steps_stop_training(train, job, recipe, monkeypatch):
    from turbosparse.train.module import CausalLMTraining  # noqa: PLC0415 - see `train`

    original = CausalLMTraining.loss
    monkeypatch.setattr(CausalLMTraining, "loss", lambda *given: original(*given) * math.inf)
    with pytest.raises(TrainingDiverged, match="as did 3 steps before it"):
        train(job(recipe=recipe(on_bad_step="skip", max_skipped_steps=3)))


def test_a_spike_is_skipped_and_training_goes_on(train, job, recipe, monkeypatch):
    at_step(monkeypatch, 18, lambda loss: loss * 5)
    spiked = job(recipe=recipe(num_steps=20, on_bad_step="skip", spike_loss_ratio=2.0))
    train(spiked)
    skipped = [record.step for record in read_history(spiked.history_path) if record.is_skipped]
    assert skipped == [18]


def test_supervised_tokens_count_alike_in_every_microbatch(train, job, conversations):
    """Sequences hold different numbers of supervised tokens: how they are batched must not matter."""
    options = {"name": "finetune", "data_folder": str(conversations), "vocab_size": 384}
    one_by_one = train(job("one", device_batch_size_sequences=1, **options))
    together = train(job("all", device_batch_size_sequences=4, **options))
    assert one_by_one == pytest.approx(together, rel=1e-5)


def test_activation_checkpointing_changes_no_loss(train, job, mixtral_folder):
    plain = train(job("plain", model_folder=str(mixtral_folder)))
    hardware = TrainingPlacement(activation_checkpointing=True)
    recomputed = train(job("recomputed", model_folder=str(mixtral_folder), hardware=hardware))
    assert recomputed == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_compiled_layers_change_no_loss(train, job):
    compiled = train(job("compiled", hardware=TrainingPlacement(compile=True)))
    assert compiled == pytest.approx(train(job("plain")), rel=1e-4)


def test_validation_is_the_loss_on_held_back_text_by_category(train, job, corpus):
    everything = TrainingPlacement(num_validation_tokens=100_000)
    validated = job(validation_folder=str(corpus), hardware=everything)
    train(validated)
    records = [record for record in read_history(validated.history_path) if record.validation_losses]
    assert [record.step for record in records] == [2, 4, 6]
    assert records[-1].validation_losses.keys() == {"web", "code"}
    model = load_model(validated.model_folder)
    model.load_state_dict({name[6:]: weight for name, weight in final_weights(validated).items()})
    rows = [json.loads(line) for line in (corpus / "held_back.jsonl").read_text().splitlines()]
    web = [row["text"] for row in rows if row["source"] == "wanjuan-cc"]
    expected = mean_loss(model, load_tokenizer(corpus / "tokenizer"), web)
    assert records[-1].validation_losses["web"] == pytest.approx(expected, rel=1e-5)


def test_no_validation_where_none_is_wanted(train, job, corpus):
    unvalidated = job(validation_folder=str(corpus), hardware=TrainingPlacement(num_validation_tokens=0))
    train(unvalidated)
    assert not any(record.validation_losses for record in read_history(unvalidated.history_path))


def test_validation_takes_a_small_part_of_training_unless_told_otherwise(corpus):
    whole = category_windows(corpus, 64, 100_000, trained_tokens=1)
    for trained_tokens in (1_200, 2_400):
        found = category_windows(corpus, 64, None, trained_tokens)
        num_tokens = {name: sum(map(len, windows)) for name, windows in found.items()}
        assert num_tokens == dict.fromkeys(whole, trained_tokens // 6)
        for name, windows in found.items():
            assert torch.equal(torch.cat(windows), torch.cat(whole[name])[: trained_tokens // 6])
    assert tokens_per_category(10, 6) == LEAST_TOKENS
    assert tokens_per_category(2**40, 6) == MOST_TOKENS


def mean_loss(model, tokenizer, texts: list[str]) -> float:
    total, num_tokens = 0.0, 0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        for start in range(0, len(ids), 64):
            window = torch.tensor(ids[start : start + 64])
            if len(window) > 1:
                with torch.no_grad():
                    logits = model(input_ids=window[None]).logits[0, :-1]
                total += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
                num_tokens += len(window) - 1
    return total / num_tokens


def test_levers_join_the_loss(train, job, recipe):
    levers = {"distillation": DistillationConfig(), "sparsity_penalty": SparsityPenaltyConfig(weight=0.1)}
    pulled = job(recipe=recipe(**levers), teacher_folder=job().model_folder)
    train(pulled)
    first, *_, last = read_history(pulled.history_path)
    assert first.other_losses["distillation"] == pytest.approx(0, abs=1e-5), "the teacher is the model itself"
    assert last.other_losses["sparsity_penalty"] > 0


def test_a_cut_sequences_loss_is_the_mean_over_its_pieces(train, job, recipe):
    """In the steps that cut; however they are batched; and no longer afterwards."""
    from turbosparse.train.module import CausalLMTraining  # noqa: PLC0415 - see `train`

    seen = []
    warmup = SequenceWarmupConfig(length_tokens=16, share_of_steps=0.5)
    fields = {"recipe": recipe(sequence_warmup=warmup)}
    with pytest.MonkeyPatch.context() as patch:
        loss = CausalLMTraining.loss
        patch.setattr(
            CausalLMTraining,
            "loss",
            lambda *given: seen.append((given[1].logits.shape, given[2])) or loss(*given),
        )
        together = train(job("together", device_batch_size_sequences=4, **fields))
    assert [tuple(shape[:2]) for shape, _ in seen] == 3 * [(16, 16)] + 3 * [(4, 64)]
    pieces = seen[0][1]["input_ids"].reshape(16, 16)
    model = load_model(job().model_folder)
    expected = float(model(input_ids=pieces, labels=pieces).loss.detach())
    assert together[0] == pytest.approx(expected, rel=1e-5)
    assert train(job("one-by-one", device_batch_size_sequences=1, **fields)) == pytest.approx(
        together, rel=1e-5
    )


def test_mfu_counts_the_attention_that_a_step_has(train, job, recipe, monkeypatch):
    from turbosparse.train.callbacks.progress import StepProgress  # noqa: PLC0415 - see `train`

    peak_flops_per_second = 1e12
    monkeypatch.setattr(
        StepProgress,
        "fit_start",
        lambda progress, *_: setattr(progress, "_peak_flops_per_second", peak_flops_per_second),
    )
    short_at_first = job(
        recipe=recipe(sequence_warmup=SequenceWarmupConfig(length_tokens=16, share_of_steps=0.5))
    )
    train(short_at_first)
    config = load_model(short_at_first.model_folder).config
    for record in read_history(short_at_first.history_path):
        flops = training_flops_per_token(config, 16 if record.step <= 3 else 64)
        assert record.mfu == pytest.approx(flops * record.tokens_per_second / peak_flops_per_second)


def test_experts_loads_are_reported_by_layer(train, job, mixtral_folder):
    routed = job(model_folder=str(mixtral_folder))
    train(routed)
    record = read_history(routed.history_path)[0]
    assert len(record.busiest_expert_load) == 2
    assert all(1 <= load <= 4 for load in record.busiest_expert_load)
    assert record.other_losses["router_balance"] > 0


def test_checkpoints_of_another_run_are_refused(train, job):
    train(job())
    with pytest.raises(ConfigError, match="identity"):
        train(job(identity="b" * 16))


def test_a_checkpoint_of_another_width_is_refused(train, job, mixtral_folder):
    _train_but_for_the_end(train, job())
    with pytest.raises(ModelError, match=r"(in the|^) ?checkpoint"):
        train(job(model_folder=str(mixtral_folder)))


def _train_but_for_the_end(train, training: TrainJob) -> None:
    """Leaves the checkpoint of step 4, as a kill before the last step does."""
    train(training)
    shutil.rmtree(Path(training.checkpoints) / "step-00000006")


def test_a_finished_training_is_not_done_again(train, job):
    """Whoever started it may have been interrupted before it heard."""
    finished = job()
    losses = train(finished)
    written = Path(finished.checkpoints) / "step-00000006" / "checkpoint.json"
    before = written.stat().st_mtime_ns
    assert train(finished) == losses
    assert written.stat().st_mtime_ns == before


def test_history_comes_from_the_checkpoint_where_the_disk_is_another(train, job, tmp_path):
    first = job()
    expected = train(first)
    shutil.rmtree(Path(first.checkpoints) / "step-00000006")
    elsewhere = first.model_copy(update={"state_folder": str(tmp_path / "elsewhere")})
    assert train(elsewhere) == pytest.approx(expected, abs=1e-6)


def test_data_of_another_tokenizer_is_refused(train, job, conversations):
    """Conversations have ChatML's tokens, which the model has no embedding for."""
    with pytest.raises(DataError, match="the model's own tokenizer"):
        train(job(name="finetune", data_folder=str(conversations)))


def test_a_batch_larger_than_the_data_is_refused(train, job, recipe):
    with pytest.raises(DataError, match="batch_size_sequences"):
        train(job(recipe=recipe(batch_size_sequences=4_000), device_batch_size_sequences=4_000))


def test_a_resumed_run_continues_its_wandb_run_and_leaks_no_key(train, job, monkeypatch, tmp_path, capfd):
    key = "canary0key0" + "7" * 29
    monkeypatch.setenv("WANDB_API_KEY", key)
    hardware = TrainingPlacement(wandb=WandbConfig(project="tests", mode="offline"))
    tracked = job(hardware=hardware)
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda loss: os.kill(os.getpid(), signal.SIGTERM) or loss)
        with pytest.raises(TrainingPreempted):
            train(tracked)
    train(tracked)
    assert capfd.readouterr().out.count(f"W&B run pretrain-{'a' * 16}: /") == 2
    runs = list((tmp_path / "state" / "wandb").rglob("run-pretrain-*.wandb"))
    assert len(runs) == 2
    assert {run.stem for run in runs} == {f"run-pretrain-{'a' * 16}"}
    assert all(b"zero_activation_layers" in run.read_bytes() for run in runs)
    written = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not [path for path in written if key.encode() in path.read_bytes()]


def test_a_trace_is_written_on_request(train, job, tmp_path):
    train(job(hardware=TrainingPlacement(profile_at_step=2)))
    assert (tmp_path / "state" / "trace.json.gz").stat().st_size > 10_000
