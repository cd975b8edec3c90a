"""Training through the launcher and Composer: ranks agree, kills resume, nothing survives its launcher."""

import contextlib
import multiprocessing
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from turbosparse.config import Placement, PredictorConfig
from turbosparse.errors import ModelError
from turbosparse.train.checkpoints import CheckpointStore, assemble_model
from turbosparse.train.history import read_history
from turbosparse.train.job import TrainJob
from turbosparse.train.launch import Program, open_launcher

LONG = {"num_steps": 24}
"""Steps enough to be killed among them."""


def launch(job: TrainJob, on_event=lambda event: None) -> list[float]:
    """Trains in processes of their own; returns the losses."""
    program = Program(job.name, job.identity, job.model_dump_json(), job.state_folder)
    open_launcher(Placement(num_ranks=job.num_ranks)).launch(program, on_event, lambda line: None)
    return losses(job)


def losses(job: TrainJob) -> list[float]:
    return [record.loss for record in read_history(job.history_path)]


def weights(job: TrainJob, folder: Path) -> dict[str, torch.Tensor]:
    assemble_model(CheckpointStore(job.checkpoints, job.identity).latest(), "model/", folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "model_folder",
    [pytest.param("mistral", marks=pytest.mark.slow), pytest.param("mixtral", marks=pytest.mark.long)],
    indirect=True,
)
def test_two_ranks_train_as_one(train, job, model_folder):
    """FSDP2 must average gradients and hand each rank its part of the same global batches."""
    recipe = job().recipe.model_copy(update={"num_steps": 20})
    fields = {"model_folder": str(model_folder), "recipe": recipe}
    expected = train(job("one", **fields))
    # Mixtral's balancing loss is a mean per microbatch, which is not the batch's.
    tolerance = 3e-3 if "mixtral" in str(model_folder) else 1e-4
    assert launch(job("two", num_ranks=2, **fields)) == pytest.approx(expected, rel=tolerance)
    assert expected[-1] < expected[0] - 0.3


@pytest.mark.parametrize(
    "model_folder",
    [pytest.param("mistral", marks=pytest.mark.long), pytest.param("mixtral", marks=pytest.mark.slow)],
    indirect=True,
)
def test_predictors_train_the_same_on_two_ranks(train, job, model_folder, conversations, tmp_path):
    """Every rank touches the stacked predictors at every step, wherever its tokens are routed."""
    fields = {
        "name": "finetune",
        "model_folder": str(model_folder),
        "data_folder": str(conversations),
        "predictor": PredictorConfig(rank=8, learning_rate=1e-2),
        "vocab_size": 384,
    }
    one, two = job("one", **fields), job("two", num_ranks=2, **fields)
    train(one)
    launch(two)
    expected, sharded = weights(one, tmp_path / "a"), weights(two, tmp_path / "b")
    names = [name for name in expected if ".predictor." in name]
    assert len(names) == 4
    for name in names:
        torch.testing.assert_close(sharded[name], expected[name], rtol=0, atol=2e-2)
    first, *_, last = read_history(two.history_path)
    assert last.other_losses["predictor"] < first.other_losses["predictor"]
    assert sharded["model.embed_tokens.weight"].shape[0] == 384


@pytest.mark.slow
def test_gradients_are_clipped_under_fsdp2(job, tmp_path):
    """Clipped to next to nothing they vanish in AdamW's epsilon: the model must stay where it was."""
    recipe = job().recipe.model_copy(update={"gradient_clip_norm": 1e-12, "weight_decay": 0.0})
    clipped = job(recipe=recipe, num_ranks=2)
    launch(clipped)
    before = load_file(Path(clipped.model_folder) / "model.safetensors")
    after = weights(clipped, tmp_path / "model")
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved < 1e-4, "unclipped, six steps of AdamW move weights by about 1e-2"


@pytest.mark.long
def test_training_moves_from_two_ranks_to_one_and_back(train, job):
    """Checkpoints know nothing of ranks: each part goes on where the last one ended, with the same data."""
    recipe = job().recipe.model_copy(update=LONG)
    fields = {"checkpoint_interval_steps": 4, "recipe": recipe}
    expected = train(job("one", **fields))
    moved = [job("moved", num_ranks=ranks, **fields) for ranks in (2, 1, 2)]
    _kill_at(moved[0], step=5)
    _kill_at(moved[1], step=13)
    assert launch(moved[2]) == pytest.approx(expected, rel=1e-4)


def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(train, job, tmp_path):
    recipe = job().recipe.model_copy(update=LONG)
    whole, killed = job("whole", recipe=recipe), job("killed", recipe=recipe)
    expected = train(whole)
    _kill_at(killed, step=5)
    events = []
    assert launch(killed, events.append) == pytest.approx(expected, abs=1e-6)
    assert _follows_a_checkpoint(events), "it resumes after its last checkpoint, not from the start"
    ended, wanted = weights(killed, tmp_path / "a"), weights(whole, tmp_path / "b")
    assert all(torch.allclose(ended[name], weight, atol=1e-6) for name, weight in wanted.items())


@pytest.mark.slow
def test_a_run_killed_with_its_machine_resumes_from_object_storage(train, job, s3, tmp_path):
    """Two ranks, and nothing is left of the first machine's disk: S3 has all that is needed."""
    recipe = job().recipe.model_copy(update=LONG)
    whole = job("whole", recipe=recipe)
    expected = train(whole)
    fields = {"checkpoints": f"{s3}/checkpoints", "num_ranks": 2, "recipe": recipe}
    _kill_at(job("first-machine", **fields), step=5)
    other = job("second-machine", **fields)
    events = []
    resumed = launch(other, events.append)
    assert resumed == pytest.approx(expected, rel=1e-4), "the history came from the checkpoint, too"
    assert _follows_a_checkpoint(events)
    assert weights(other, tmp_path / "model").keys() == weights(whole, tmp_path / "whole").keys()


def test_a_refusal_in_a_rank_arrives_as_what_it_is(job, tmp_path):
    with pytest.raises(ModelError, match="model folder"):
        launch(job(model_folder=str(tmp_path / "nothing")))


def _follows_a_checkpoint(events: list) -> bool:
    first = events[0].values["step"]
    return first > 1 and first % 4 == 1


def _kill_at(job: TrainJob, step: int) -> None:
    """Starts a job and kills all its processes at once, as a power cut does, once a step is done."""
    launcher = multiprocessing.get_context("fork").Process(target=launch, args=(job,))
    launcher.start()
    while _num_steps(job) < step:
        assert launcher.is_alive(), "training ended before it could be killed"
        time.sleep(0.02)
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    # Ranks first: told to stop by their agent they would save where they are.
    for process in reversed(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.join()
    _, alive = psutil.wait_procs(processes, timeout=40)
    assert not alive, "ranks outlive their launcher"


def _num_steps(job: TrainJob) -> int:
    return len(read_history(job.history_path)) if job.history_path.exists() else 0
