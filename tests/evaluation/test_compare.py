"""Comparisons: the same items only, p-values that hold, regressions first."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from turbosparse.cli.compare import compare as compare_command
from turbosparse.errors import DataError
from turbosparse.evaluation import paired
from turbosparse.evaluation.compare import compare, open_evaluation
from turbosparse.evaluation.paired import Paired, binomial_tail, holm
from turbosparse.evaluation.records import EvaluationResult, ItemRecord, write_result


def evaluation(answers: dict[str, list[float]], texts: list[float] = (), **changes) -> EvaluationResult:
    """An evaluation whose items of each task are right (1) or wrong (0), beside texts' log-likelihoods."""
    records = [
        ItemRecord(task, place, f"item {place}", f"prompt {place}", "", metrics={"acc": right})
        for task, column in answers.items()
        for place, right in enumerate(column)
    ]
    records += [
        ItemRecord("local_text", place, f"text {place}", "", "", (found,), sizes={"words": 10 + place})
        for place, found in enumerate(texts)
    ]
    tasks = {record.task for record in records}
    fields = {
        "results": {},
        "num_items": {},
        "num_too_long": {},
        "intervals": {},
        "higher_is_better": {task: {"acc": True} for task in tasks},
        "num_fewshot": dict.fromkeys(tasks, 0),
        "fewshot_source": {},
        "versions": dict.fromkeys(tasks, "1.0"),
        "groups": {},
        "averages": {},
        "settings": {"limit": None},
    }
    return EvaluationResult(records=records, **(fields | changes))


RIGHT, WRONG = [1.0] * 40, [0.0] * 40


def test_regressions_come_first_then_noise_then_gains():
    before = evaluation({"gains": WRONG, "noise": [1.0, 0.0] * 20, "loses": RIGHT})
    after = evaluation({"gains": RIGHT, "noise": [0.0, 1.0, *[1.0, 0.0] * 19], "loses": WRONG})
    found = compare({"before": before, "after": after})
    assert [(one.task, one.verdict) for one in found] == [
        ("loses", "worse"),
        ("noise", "no difference found"),
        ("gains", "better"),
    ]
    assert (found[0].baseline_value, found[0].value) == (1.0, 0.0)
    assert found[0].corrected_p_worse < 1e-6
    assert found[2].corrected_p_worse > 0.5


def test_mcnemar_counts_only_items_that_changed():
    # Nine changed, eight for the worse: the chance of 8 or 9 heads in 9 tosses is 10 / 512.
    before = [1.0] * 8 + [0.0] + [1.0] * 500
    after = [0.0] * 8 + [1.0] + [1.0] * 500
    (one,) = compare({"a": evaluation({"task": before}), "b": evaluation({"task": after})})
    assert one.test == "McNemar, exact"
    assert one.p_worse == pytest.approx(10 / 512)
    assert one.p_value == pytest.approx(20 / 512)
    assert binomial_tail(0, 9) == 1.0


def test_p_values_are_corrected_for_the_number_of_tasks():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    changed = [0.0] * 6 + RIGHT  # six of six for the worse: two-sided 2 / 64
    alone = compare({"a": evaluation({"x": [1.0] * 6 + RIGHT}), "b": evaluation({"x": changed})})
    others = {"y": RIGHT, "z": RIGHT}
    among = compare(
        {"a": evaluation({"x": [1.0] * 6 + RIGHT, **others}), "b": evaluation({"x": changed, **others})}
    )
    assert alone[0].verdict == "worse"
    assert {one.verdict for one in among} == {"no difference found"}


def test_perplexity_is_per_word_over_all_texts_and_less_is_better():
    before = evaluation({}, texts=[-20.0, -22.0, -24.0, -26.0, -28.0, -30.0, -32.0, -34.0])
    after = evaluation({}, texts=[-21.0, -23.0, -25.0, -27.0, -29.0, -31.0, -33.0, -35.0])
    (one,) = compare({"a": before, "b": after})
    num_words = sum(range(10, 18))
    assert one.metric == "word_perplexity"
    assert one.baseline_value == pytest.approx(math.exp(216 / num_words))
    assert one.value > one.baseline_value
    assert one.interval[0] < one.value - one.baseline_value < one.interval[1]
    assert one.interval[0] > 0
    # All eight signs alike: 1 of 256 one way.
    assert one.p_worse == pytest.approx(1 / 256, rel=0.5)
    assert not one.is_better


def test_a_single_item_proves_nothing():
    (one,) = compare({"a": evaluation({}, texts=[-20.0]), "b": evaluation({}, texts=[-90.0])})
    assert one.p_value > 0.9


def test_a_metric_of_which_less_is_better_is_turned():
    lower = {"higher_is_better": {"task": {"brier": False}}}
    records = [ItemRecord("task", n, f"{n}", "", "", metrics={"brier": 0.25}) for n in range(20)]
    better = [replace(record, metrics={"brier": 0.125}) for record in records]
    before = replace(evaluation({"task": []}, **lower), records=records)
    (one,) = compare({"a": before, "b": replace(before, records=better)})
    assert (one.baseline_value, one.value, one.verdict) == (0.25, 0.125, "better")


def test_equal_models_do_not_differ():
    same = evaluation({"task": [1.0, 0.0] * 9}, texts=[-20.0, -30.0])
    for one in compare({"a": same, "b": same}):
        assert (one.p_value, one.p_worse, one.interval) == (1.0, 1.0, (0.0, 0.0))


def test_random_signs_agree_with_the_exact_test(monkeypatch):
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, size=(2, 60)).astype(float)
    exact = Paired(answers[0], answers[1], np.ones(60)).p_worse()
    monkeypatch.setattr(Paired, "is_right_or_wrong", False)
    monkeypatch.setattr(paired, "_CHUNK_ITEMS", 700)
    assert Paired(answers[0], answers[1], np.ones(60)).p_worse() == pytest.approx(exact, abs=0.02)


def test_a_groups_tasks_are_one_comparison():
    tasks = {"mmlu_law": [1.0, 0.0, 1.0], "mmlu_art": [0.0] * 5}
    groups = {"mmlu": list(tasks), "mmlu_humanities": ["mmlu_law"]}
    (one,) = compare({"a": evaluation(tasks, groups=groups), "b": evaluation(tasks, groups=groups)})
    assert (one.task, one.num_items, one.value) == ("mmlu", 8, 0.25)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (evaluation({"other": RIGHT}), "tasks"),
        (evaluation({"task": RIGHT}, num_fewshot={"task": 5}), "examples per prompt"),
        (evaluation({"task": RIGHT}, settings={"limit": 40}), "limit"),
        (evaluation({"task": RIGHT}, versions={"task": "2.0"}), "versions"),
        (evaluation({"task": RIGHT[1:]}), "39 items"),
    ],
)
def test_what_does_not_match_is_refused_and_named(other, named):
    with pytest.raises(DataError, match=named):
        compare({"a": evaluation({"task": RIGHT}), "b": other})


def test_other_items_of_the_same_number_are_refused():
    mine, theirs = evaluation({"task": RIGHT}), evaluation({"task": RIGHT})
    for change in ({"doc_hash": "another"}, {"prompt_hash": "with other examples"}):
        changed = [replace(record, **change) for record in theirs.records]
        with pytest.raises(DataError, match="other items, or other prompts"):
            compare({"a": mine, "b": replace(theirs, records=changed)})
    with pytest.raises(DataError, match="at least two"):
        compare({"a": mine})


def test_the_command_reads_folders_and_writes_both_files(tmp_path):
    write_result(evaluation({"task": RIGHT}), tmp_path / "dense")
    write_result(evaluation({"task": WRONG}), tmp_path / "sparse")
    app = Typer()
    app.command()(compare_command)
    folders = [str(tmp_path / "dense"), f"sparse={tmp_path / 'sparse'}"]
    ended = CliRunner().invoke(app, [*folders, "--json", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["differences"][0]["verdict"] == "worse"
    assert report["first"].endswith("/dense")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == report
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_what_is_no_evaluation_is_refused(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(DataError, match="evaluation"):
        open_evaluation(str(tmp_path))
    with pytest.raises(DataError, match="uri"):
        open_evaluation("nothing")
