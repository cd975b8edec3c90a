"""Lines of training's output in a run's log: all at once, until there are too many."""

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
