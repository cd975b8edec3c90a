"""Names of tasks as users write them, and averages that are taken of all their tasks or not at all."""

import pytest

from turbosparse.errors import DataError
from turbosparse.evaluation.suites import SUITES, Average, TaskRequest, average_of, plan_tasks


def shots(*names, num_fewshot=None):
    return {task.name: task.num_fewshot for task in plan_tasks(names, num_fewshot).tasks}


def test_a_suite_has_the_papers_examples_and_its_average_covers_its_tasks():
    papers = {
        "arc_challenge": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 8,
    }
    assert shots("openllm", num_fewshot=3) == papers
    for suite in SUITES.values():
        for average in suite.averages:
            assert average.metrics.keys() == {task.name for task in suite.tasks}


def test_shots_belong_to_the_task_that_names_them():
    assert shots("arc_easy:25", "piqa", "sciq:0") == {"arc_easy": 25, "piqa": None, "sciq": 0}
    assert shots("arc_easy:25", "piqa", num_fewshot=2) == {"arc_easy": 25, "piqa": 2}


def test_a_task_named_twice_alike_runs_once_and_differently_not_at_all():
    assert len(plan_tasks(["table10", "commonsense"]).tasks) == 9
    assert len(plan_tasks(["table10", "commonsense"]).averages) == 3
    with pytest.raises(DataError, match=r"arc_challenge.*one number of examples"):
        plan_tasks(["openllm", "table10"])


@pytest.mark.parametrize("names", [[], ["arc_easy:few"], ["arc_easy:-1"]])
def test_what_is_no_task_is_refused(names):
    with pytest.raises(DataError, match="tasks"):
        plan_tasks(names)


def test_nothing_is_averaged_over_what_did_not_run():
    average = Average("both", {"arc_easy": "acc", "piqa": "acc_norm"})
    results = {"arc_easy": {"acc": 0.5}, "piqa": {"acc": 0.25, "acc_norm": 0.75}}
    assert average_of(average, results)["value"] == pytest.approx(0.625)
    found = average_of(average, {"arc_easy": {"acc": 0.5}, "piqa": {"acc": 0.25}})
    assert found == {"value": None, "why": "not measured: piqa"}


def test_requests_of_a_suite_say_where_examples_come_from():
    assert TaskRequest("arc_challenge", 25, "train") in plan_tasks(["openllm"]).tasks
