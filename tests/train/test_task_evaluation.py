"""Tasks evaluated while training runs: the model's own figures, and training as if nothing had been."""

import pytest

from turbosparse.config import TaskEvaluationConfig, TrainConfig, TrainingPlacement
from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.model.folder import load_model
from turbosparse.train.checkpoints import CheckpointStore, assemble_model
from turbosparse.train.history import StepRecord, read_history, summarise
from turbosparse.train.job import TrainJob
from turbosparse.train.state import CONFIG_NAMES

TASKS = ("local_text",)


def evaluating(job, corpus, folder: str, tasks=TASKS, **changes) -> TrainJob:
    wanted = TaskEvaluationConfig(tasks=tasks, interval_steps=4, limit=6)
    placed = TrainingPlacement(evaluation=wanted)
    return job(folder, hardware=placed, held_back_folder=str(corpus), **changes)


def measured(job: TrainJob) -> dict[int, dict[str, float]]:
    return {
        record.step: record.task_results for record in read_history(job.history_path) if record.task_results
    }


def test_the_last_results_are_those_of_the_stage():
    history = [
        StepRecord(step, 5.0, 1.0, 1e-3, zero_activation_ratio=0.5, task_results=found)
        for step, found in enumerate([None, {"piqa.acc": 0.25}, {"piqa.acc": 0.75}, None], start=1)
    ]
    assert summarise(history, 4)["task_results"] == {"piqa.acc": 0.75}
    assert "task_results" not in summarise(history[:1], 1)


def test_figures_are_those_of_the_model_at_that_step_and_training_goes_on_alike(train, job, corpus, tmp_path):
    plain, evaluated = job("plain"), evaluating(job, corpus, "evaluated")
    assert train(evaluated) == pytest.approx(train(plain), abs=1e-6)
    assert list(measured(evaluated)) == [4, 6], "at the interval, and at the last step"
    folder = tmp_path / "model"
    last = CheckpointStore(evaluated.checkpoints, evaluated.identity).latest()
    assemble_model(last, "model/", folder, CONFIG_NAMES)
    expected = evaluate_model(
        load_model(folder),
        load_tokenizer(corpus / "tokenizer"),
        TASKS,
        limit=6,
        options=EvaluationOptions(held_back=corpus / HELD_BACK_NAME),
    ).results["local_text"]
    names = {name for name in expected if "_stderr" not in name}
    assert measured(evaluated)[6] == pytest.approx(
        {f"local_text.{name}": expected[name] for name in names}, rel=1e-5
    )
    assert measured(evaluated)[4] != measured(evaluated)[6]


def test_what_can_not_be_evaluated_stops_before_the_first_step(train, job, corpus, tmp_path):
    wrong = evaluating(job, corpus, "wrong", tasks=("piqa",), evaluation_data=str(tmp_path))
    with pytest.raises(DataError, match="piqa"):
        train(wrong)
    assert not wrong.history_path.exists()


@pytest.mark.long
def test_sharded_models_are_evaluated_as_whole_ones(train, job, corpus, mistral_folder):
    from test_training import launch  # noqa: PLC0415 - beside this file

    recipe: TrainConfig = job().recipe
    one, two = (
        evaluating(job, corpus, name, recipe=recipe, model_folder=str(mistral_folder), num_ranks=ranks)
        for name, ranks in (("one", 1), ("two", 2))
    )
    train(one)
    launch(two)
    assert list(measured(two)) == list(measured(one)) == [4, 6]
    assert measured(two)[6] == pytest.approx(measured(one)[6], rel=1e-3)
