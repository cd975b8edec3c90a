"""Table 4: shares that are counted from what training draws, and the worst of them found."""

import itertools

import numpy as np
import pytest

from turbosparse.artifacts import Artifact
from turbosparse.config import TABLE_4_PERCENT, DataConfig
from turbosparse.data.mixture import allot_sequences, interleave
from turbosparse.reproduce import table4
from turbosparse.reproduce.common import Request, write_reproduction

LENGTH = 32


@pytest.fixture(scope="module")
def corpus(make_corpus) -> Artifact:
    config = DataConfig(
        corpora="local",
        num_tokens=400 * LENGTH,
        sequence_length=LENGTH,
        vocab_size=400,
        max_repetitions=99,
        near_duplicates=False,
    )
    texts = {
        source: [f"{source} document {number}: {source} text {number}, " * 6 for number in range(30)]
        for source in TABLE_4_PERCENT
    }
    return make_corpus(config, texts)


@pytest.fixture
def result(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(table4, "open_scaled", lambda request, overrides: None)
    monkeypatch.setattr(table4, "make", lambda *arguments: corpus)
    return table4.reproduce(Request(tmp_path))


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7, 10, 11, 23])
def test_the_worst_window_is_the_worst_of_all(window):
    order = np.array([0, 0, 1, 0, 2, 1, 0, 1, 1, 1], np.uint8)
    wanted = {"a": 0.4, "b": 0.45, "c": 0.15}
    found = table4.worst_window(order, wanted, window)
    epochs = np.tile(order, 5)
    windows = [epochs[start : start + window] for start in range(len(order))]
    deviations = {
        name: max(abs(np.mean(drawn == number) - ratio) for drawn in windows)
        for number, (name, ratio) in enumerate(wanted.items())
    }
    assert found.points == pytest.approx(100 * max(deviations.values()))
    assert deviations[found.source] == pytest.approx(max(deviations.values()))


def test_a_run_of_one_source_is_found_where_the_whole_is_exact():
    counts = allot_sequences(TABLE_4_PERCENT, 20_000)
    wanted = {source: percent / 100 for source, percent in TABLE_4_PERCENT.items()}
    drawn = interleave(list(counts.values()))
    assert table4.worst_window(drawn, wanted, 10_000).points < 0.02
    in_blocks = table4.worst_window(np.sort(drawn), wanted, 10_000)
    assert in_blocks.source == "wanjuan-cc"
    assert in_blocks.points > 20


def test_the_worst_deviation_is_absolute():
    found = table4.worst_deviation({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.52, "b": 0.33, "c": 0.15})
    assert found.source == "c"
    assert found.points == pytest.approx(5)


def test_shares_are_those_of_the_order_that_is_drawn(corpus, result):
    order = np.load(corpus.folder() / "order.npy")
    sources = result.measured["sources"]
    for number, row in enumerate(sources.values()):
        assert row["realised_ratio"] == np.mean(order == number)
        assert row["num_drawn_tokens"] == LENGTH * np.count_nonzero(order == number)
    assert result.measured["num_tokens"] == 400 * LENGTH
    gaps = [100 * abs(row["realised_ratio"] - row["wanted_ratio"]) for row in sources.values()]
    assert result.measured["worst_deviation"]["points"] == max(gaps) > 0
    assert result.measured["worst_window_deviation"]["window_sequences"] == 10_000


def test_the_papers_figures_stand_beside_with_the_split_explained(result, tmp_path):
    files = write_reproduction(result, tmp_path)
    assert {path.name for path in files} == {"table4.json", "table4.md", "table4.png"}
    assert all(path.is_file() for path in files)
    lines = (tmp_path / "table4.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert len(rows) == 17
    paper = [row[1] for row in rows]
    assert paper.count("2.69 for three") == 3
    stated = itertools.chain([2.69], map(float, (cell for cell in paper if "three" not in cell)))
    assert sum(stated) == pytest.approx(100)
    assert any("2.69%" in line and "0.90 + 0.90 + 0.89" in line for line in lines)
    assert rows[4][6] == "a list for wanjuan-cc"
