"""Training through torchrun and Composer: ranks agree, kills resume, nothing survives its launcher."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from turbosparse.config import Placement, PredictorConfig, TrainConfig
from turbosparse.errors import TrainingError
from turbosparse.train.history import read_history
from turbosparse.train.job import TrainJob
from turbosparse.train.launch import Program, open_launcher

RECIPE = TrainConfig(num_steps=8, batch_size_sequences=4, learning_rate=3e-3, warmup_steps=2)


def job(model_folder: Path, data: Path, home: Path, **changes) -> TrainJob:
    (home / "state").mkdir(parents=True, exist_ok=True)
    fields = {
        "name": "pretrain",
        "recipe": RECIPE,
        "model_folder": str(model_folder),
        "data_folder": str(data),
        "shards": str(data.parents[2] / "tokens"),
        "output_folder": str(home / "model"),
        "state_folder": str(home / "state"),
        "num_ranks": 1,
        "device_batch_size_sequences": 2,
        "checkpoint_interval_steps": 3,
    }
    return TrainJob(**{**fields, **changes})


def launch(training: TrainJob, on_event, on_log) -> None:
    program = Program(training.name, training.identity, training.model_dump_json(), training.state_folder)
    open_launcher(Placement(num_ranks=training.num_ranks)).launch(program, on_event, on_log)


def run(training: TrainJob) -> tuple[list[float], dict[str, torch.Tensor]]:
    events, log = [], []
    launch(training, events.append, log.append)
    history = read_history(training.history_path)
    assert [event.values["step"] for event in events] == [record.step for record in history]
    return [record.loss for record in history], load_file(Path(training.output_folder) / "model.safetensors")


@pytest.mark.slow
def test_two_ranks_train_as_one(model_folder, corpus, tmp_path):
    """FSDP2 must average gradients and hand each rank its part of the same global batches."""
    losses, weights = run(job(model_folder, corpus, tmp_path / "one"))
    sharded_losses, sharded_weights = run(
        job(model_folder, corpus, tmp_path / "two", num_ranks=2, device_batch_size_sequences=2)
    )
    # Mixtral's balancing loss is a mean per microbatch, which is not the batch's.
    tolerance = 3e-3 if "mixtral" in str(model_folder) else 1e-4
    assert sharded_losses == pytest.approx(losses, rel=tolerance)
    assert losses[-1] < losses[0] - 0.3
    assert sharded_weights.keys() == weights.keys()


@pytest.mark.slow
def test_predictors_train_the_same_on_two_ranks(model_folder, conversations, tmp_path):
    """Every rank touches the stacked predictors at every step, wherever its tokens are routed."""
    options = {
        "name": "finetune",
        "predictor": PredictorConfig(rank=8, learning_rate=1e-2),
        "vocab_size": 384,
    }
    one = job(model_folder, conversations, tmp_path / "one", **options)
    two = job(model_folder, conversations, tmp_path / "two", num_ranks=2, **options)
    _, weights = run(one)
    _, sharded_weights = run(two)
    names = [name for name in weights if ".predictor." in name]
    assert len(names) == 4
    for name in names:
        torch.testing.assert_close(sharded_weights[name], weights[name], rtol=0, atol=2e-2)
    first, *_, last = read_history(one.history_path)
    assert last.predictor_loss < first.predictor_loss
    assert weights["model.embed_tokens.weight"].shape[0] == 384


@pytest.mark.slow
def test_gradients_are_clipped_under_fsdp2(corpus, tmp_path, model_folder):
    """Clipped to next to nothing they vanish in AdamW's epsilon: the model must stay where it was."""
    if "mixtral" in str(model_folder):
        pytest.skip("the same code; one architecture keeps the suite fast")
    recipe = RECIPE.model_copy(update={"gradient_clip_norm": 1e-12, "weight_decay": 0.0})
    _, weights = run(job(model_folder, corpus, tmp_path, recipe=recipe, num_ranks=2))
    before = load_file(model_folder / "model.safetensors")
    moved = max(float((weights[name] - before[name]).abs().max()) for name in before)
    assert moved < 1e-4, "unclipped, eight steps of AdamW move weights by about 1e-2"


def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(corpus, tmp_path, model_folder):
    if "mixtral" in str(model_folder):
        pytest.skip("the same code; one architecture keeps the suite fast")
    expected_losses, expected = run(job(model_folder, corpus, tmp_path / "whole"))
    interrupted = job(model_folder, corpus, tmp_path / "killed")
    context = multiprocessing.get_context("fork")
    launcher = context.Process(target=launch, args=(interrupted, lambda event: None, lambda line: None))
    launcher.start()
    while not (_steps(interrupted) >= 5):
        assert launcher.is_alive(), "training ended before it could be killed"
        time.sleep(0.05)
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive, "ranks outlive their launcher"
    events = []
    launch(interrupted, events.append, lambda line: None)
    assert events[0].values["step"] in (4, 7), "it resumes after a checkpoint, not from the start"
    assert [record.loss for record in read_history(interrupted.history_path)] == pytest.approx(
        expected_losses, abs=1e-6
    )
    weights = load_file(Path(interrupted.output_folder) / "model.safetensors")
    assert all(torch.allclose(weights[name], weight, atol=1e-6) for name, weight in expected.items())


def test_a_failing_rank_is_reported_with_its_words(tmp_path, corpus):
    with pytest.raises(TrainingError, match="model folder"):
        launch(job(tmp_path / "nothing", corpus, tmp_path), lambda event: None, lambda line: None)


def _steps(training: TrainJob) -> int:
    return len(read_history(training.history_path)) if training.history_path.exists() else 0
