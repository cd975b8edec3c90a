"""Lines of training's output in a run's log: all at once, until there are too many."""

import logging

import pytest

from tasks import progress
from tasks.progress import LINES_PER_WINDOW, WINDOW_SECONDS, LogLines


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_flood_is_cut_and_counted_and_the_next_window_is_open_again(clock):
    written: list[str] = []
    lines = LogLines(written.append)
    for number in range(LINES_PER_WINDOW + 25):
        lines.write(f"line {number}")
    assert written == [f"line {number}" for number in range(LINES_PER_WINDOW)]
    clock[0] += WINDOW_SECONDS
    lines.write("later")
    assert written[LINES_PER_WINDOW:] == ["… lines left out: 25", "later"]


def test_the_end_says_what_was_left_out(clock):
    written: list[str] = []
    lines = LogLines(written.append)
    for _ in range(LINES_PER_WINDOW + 1):
        lines.write("line")
    lines.close()
    lines.close()
    assert written[LINES_PER_WINDOW:] == ["… lines left out: 1"]


@pytest.mark.parametrize(
    ("line", "links"),
    [
        (
            "W&B run base-0123: https://wandb.example/a/p/runs/base-0123",
            ["https://wandb.example/a/p/runs/base-0123"],
        ),
        ("W&B run base-0123: /data/runs/base/state/wandb/offline-run", []),
        ("step 1 of 2", []),
    ],
)
def test_the_wandb_run_that_training_names_is_linked(line, links, monkeypatch):
    made: list[dict[str, str]] = []
    monkeypatch.setattr(progress, "create_link_artifact", lambda **fields: made.append(fields))
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("test"))
    with progress.reporting("base") as listener:
        listener.on_log(line)
    assert [fields["link"] for fields in made] == links
    assert {fields["key"] for fields in made} <= {"base-wandb"}
