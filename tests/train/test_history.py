"""The history is whole even after kills."""

import pytest

from turbosparse.train.history import StepRecord, append_record, read_history, summarise
from turbosparse.train.launch.protocol import Event, emit, parse


def record(step: int, loss: float, zeros: float | None = None) -> StepRecord:
    return StepRecord(
        step, loss, tokens_per_second=10.0 * step, learning_rate=1e-3, zero_activation_ratio=zeros
    )


def test_steps_that_ran_again_count_once_and_cut_lines_not_at_all(tmp_path):
    path = tmp_path / "history.jsonl"
    for entry in (record(1, 5.0), record(2, 4.0), record(3, 3.5)):
        append_record(path, entry)
    with path.open("a") as file:
        file.write('{"step": 4, "lo\n')
    append_record(path, record(3, 3.0, zeros=0.5))
    history = read_history(path)
    assert [entry.loss for entry in history] == [5.0, 4.0, 3.0]
    metrics = summarise(history, 3)
    assert metrics == {
        "first_loss": 5.0,
        "last_loss": 3.0,
        "tokens_per_second": 20.0,
        "zero_activation_ratio": 0.5,
        "num_skipped_steps": 0,
    }


def test_the_last_loss_is_the_mean_of_the_last_tenth():
    history = [record(step, float(step), zeros=0.5) for step in range(1, 31)]
    metrics = summarise(history, 30)
    assert (metrics["first_loss"], metrics["last_loss"]) == (1.0, 29.0)


def test_what_was_measured_joins_the_summary_and_nothing_else():
    steps = [
        StepRecord(1, 5.0, 1.0, 1e-3, mfu=0.25, memory_bytes=7, zero_activation_ratio=0.5),
        StepRecord(2, 4.0, 1.0, 1e-3, mfu=0.75, memory_bytes=9, is_skipped=True),
        StepRecord(3, 4.0, 1.0, 1e-3, mfu=0.5, memory_bytes=8),
    ]
    metrics = summarise(steps, 3)
    assert (metrics["mfu"], metrics["peak_memory_bytes"], metrics["num_skipped_steps"]) == (0.5, 9, 1)


def test_a_missing_step_is_no_summary(tmp_path):
    with pytest.raises(AssertionError):
        summarise([record(1, 5.0), record(3, 3.0, zeros=0.5)], 3)


def test_events_cross_the_pipe_among_other_output(capsys):
    emit("step", record(7, 2.5))
    line = capsys.readouterr().out.strip()
    assert parse(line) == Event("step", {**record(7, 2.5).__dict__})
    assert parse("2026-01-01 some warning") is None
    assert parse(line[:20]) is None
