"""Tables 6 and 13: ours by the harness's names, the paper's beside, its contradictions computed."""

import pytest

from turbosparse.reports.paper import PAPER_MODELS, TABLE_6, original_and_sparse
from turbosparse.reproduce import leaderboard, table6, table13
from turbosparse.reproduce.common import Request, write_reproduction
from turbosparse.reproduce.leaderboard import Column, tabulate, tasks_of, wrong_averages

BOARD = leaderboard.Leaderboard("table6", "", ("openllm",), table6.TASKS, ())


def figures(results: dict[str, dict[str, float]]) -> dict:
    return {
        "results": results,
        "num_parameters": 2_000_000,
        "activated_parameters": {"total": 1_500_000},
        "settings": {"limit": None, "context_tokens": 512},
        "fewshot_source": {},
        "num_too_long": {},
    }


def test_the_papers_wrong_averages_are_found_and_its_right_ones_are_not():
    lines = table6.contradictions()
    assert [line for line in lines if "mean of" in line] == [
        "The paper gives 61.57 as Mistral-7B's OpenLLM average; its own 6 figures have a mean of 61.81."
    ]
    assert sum("Table 13" in line for line in lines) == 1
    assert any("Gemma-2B" in line and "63.40" in line and "71.11" in line for line in lines)
    assert any("2.5B" in line and "3B" in line for line in lines)
    assert wrong_averages(table13.AVERAGE, table13.TASKS) == []


def test_a_figure_stands_under_the_metric_that_the_paper_counts():
    results = {task.task: {task.metric: 0.5, "other": 0.1} for task in TABLE_6}
    header, rows = tabulate((*table6.TASKS, table6.AVERAGE), {"ours": figures(results)})
    assert rows[0] == ["ours", "2.00M", "1.50M", *["50.00"] * 7]
    assert [row[0] for row in rows[1:]] == [f"paper: {model}" for model in PAPER_MODELS]
    assert {len(row) for row in rows} == {len(header)}


def test_an_average_over_what_did_not_run_is_not_measured():
    results = {task.task: {task.metric: 0.5} for task in TABLE_6[:-1]} | {"local_cloze": {"acc": 0.25}}
    header, rows = tabulate((*table6.TASKS, table6.AVERAGE), {"ours": figures(results)})
    assert rows[0][-3:] == ["not measured", "not measured", "25.00"]
    assert header[-1] == "local_cloze"
    mixed = Column("two", (0.0,) * 5, {"a": "acc", "b": "acc"})
    assert mixed.value({"a": {"acc": 1.0}, "b": {"acc": 0.5}}) == 0.75
    assert mixed.value({"a": {"acc": 1.0}, "b": {"acc_norm": 0.5}}) is None


def test_without_items_the_tiny_scale_asks_what_it_can(tmp_path):
    assert tasks_of(BOARD, Request(tmp_path)) == ("local_cloze",)
    assert tasks_of(BOARD, Request(tmp_path, data=tmp_path)) == ("openllm",)
    assert tasks_of(BOARD, Request(tmp_path, scale="7b")) == ("openllm",)
    assert tasks_of(BOARD, Request(tmp_path, tasks=["piqa"])) == ("piqa",)


def test_the_papers_figures_are_those_of_its_models_of_the_same_kind():
    assert original_and_sparse("gsm8k", "exact_match,strict-match", is_moe=False) == (40.17, 50.84)
    assert original_and_sparse("sciq", "acc", is_moe=True) == (96.7, 97.9)
    assert original_and_sparse("sciq", "acc_norm", is_moe=True) is None


@pytest.mark.slow
def test_table_13_evaluates_given_models_on_real_items(stories260k, tmp_path):
    data = stories260k.parents[1] / "eval"
    text = stories260k.parents[1] / "corpora" / "tinystories.jsonl"
    request = Request(
        tmp_path, models=[f"stories={stories260k}"], text=text, data=data, limit=8, num_tokens=2_000
    )
    result = table13.reproduce(request)
    found = result.measured["stories"]
    assert found["num_items"] == dict.fromkeys(("piqa", "sciq", "arc_easy", "openbookqa"), 8)
    assert found["num_parameters"] == 260_032
    assert result.rows[0][2:] != ["not measured"] * 6
    mean = sum(float(cell) for cell in result.rows[0][3:7]) / 4
    assert float(result.rows[0][7]) == pytest.approx(mean, abs=0.01)
    write_reproduction(result, tmp_path)
    assert "At most 8 items" in (tmp_path / "table13.md").read_text()
