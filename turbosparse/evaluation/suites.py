"""The paper's evaluations as suites of lm-evaluation-harness tasks, and how users name tasks.

A task is named as the harness names it, with its number of examples after a colon where it differs from
the harness's own: `arc_challenge:25`. A suite stands for its tasks, their examples and the averages that
the paper reports of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from turbosparse.errors import DataError


@dataclass(frozen=True)
class TaskRequest:
    """A task, or a group of tasks, as it is to be run."""

    name: str
    """The harness's name, or a local task's."""
    num_fewshot: int | None = None
    """Examples in each prompt; None: the task's own default."""
    fewshot_split: str | None = None
    """Where examples are drawn from if not where the task says: the harness's group `openllm` has it so."""


@dataclass(frozen=True)
class Average:
    """A mean over tasks that the paper reports."""

    name: str
    metrics: Mapping[str, str]
    """The metric that counts, by task."""


@dataclass(frozen=True)
class Suite:
    """Tasks that the paper reports together."""

    name: str
    tasks: tuple[TaskRequest, ...]
    averages: tuple[Average, ...]


def _zero_shot(*names: str) -> tuple[TaskRequest, ...]:
    return tuple(TaskRequest(name, 0) for name in names)


def _average(name: str, metric: str, *tasks: str) -> Average:
    return Average(name, dict.fromkeys(tasks, metric))


_COMMONSENSE = ("piqa", "sciq", "arc_easy", "openbookqa")
_TABLE_10 = ("arc_easy", "arc_challenge", "piqa", "winogrande", "boolq", "hellaswag", "lambada_openai")
_OPENLLM_METRICS = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "mmlu": "acc",
    "truthfulqa_mc2": "acc",
    "winogrande": "acc",
    "gsm8k": "exact_match,strict-match",
}

SUITES = {
    suite.name: suite
    for suite in (
        # Table 6: the Open LLM Leaderboard's tasks, GSM8K with 8 examples where the leaderboard has 5.
        Suite(
            "openllm",
            (
                TaskRequest("arc_challenge", 25, "train"),
                TaskRequest("hellaswag", 10, "train"),
                TaskRequest("mmlu", 5),
                TaskRequest("truthfulqa_mc2", 0),
                TaskRequest("winogrande", 5, "train"),
                TaskRequest("gsm8k", 8),
            ),
            (Average("openllm", _OPENLLM_METRICS),),
        ),
        # Table 13. The paper does not say which accuracy it gives: both averages are here.
        Suite(
            "commonsense",
            _zero_shot(*_COMMONSENSE),
            (
                _average("commonsense acc", "acc", *_COMMONSENSE),
                _average("commonsense acc_norm", "acc_norm", *_COMMONSENSE),
            ),
        ),
        Suite("table10", _zero_shot(*_TABLE_10), (_average("table10 acc", "acc", *_TABLE_10),)),
        # A few minutes for a small model: one task of each kind, nothing generated.
        Suite("quick", _zero_shot("arc_easy", "piqa", "lambada_openai"), ()),
    )
}


@dataclass(frozen=True)
class Plan:
    """What is to be run, and which averages are to be taken of it."""

    tasks: tuple[TaskRequest, ...]
    averages: tuple[Average, ...]


def plan_tasks(names: Sequence[str], num_fewshot: int | None = None) -> Plan:
    """Reads task and suite names as users write them.

    Args:
        names: `task`, `task:shots` or a suite's name; a task that is named twice alike is run once.
        num_fewshot: examples for every named task that does not say itself; not for suites.

    Raises:
        DataError: No name, shots that are not a number, or one task with different numbers of examples.
    """
    tasks: dict[str, TaskRequest] = {}
    averages: list[Average] = []
    for name in names:
        suite = SUITES.get(name)
        averages += suite.averages if suite else ()
        for task in suite.tasks if suite else (_read(name, num_fewshot),):
            if tasks.setdefault(task.name, task) != task:
                shots = [tasks[task.name].num_fewshot, task.num_fewshot]
                remedy = "evaluate twice, once with each"
                raise DataError(f"tasks, {task.name}", shots, "one number of examples per task", remedy)
    if not tasks:
        remedy = "name some, such as local_cloze,local_text"
        raise DataError("tasks", list(names), f"at least one task, or a suite: {', '.join(SUITES)}", remedy)
    return Plan(tuple(tasks.values()), tuple(averages))


def average_of(average: Average, results: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    """Returns an average's `value`, or None with a `why` where one of its tasks was not run.

    Args:
        average: tasks and their metrics.
        results: figures by task and metric.
    """
    missing = [task for task, metric in average.metrics.items() if metric not in results.get(task, {})]
    if missing:
        return {"value": None, "why": f"not measured: {', '.join(missing)}"}
    values = [results[task][metric] for task, metric in average.metrics.items()]
    return {"value": sum(values) / len(values), "metrics": dict(average.metrics)}


def _read(name: str, num_fewshot: int | None) -> TaskRequest:
    task, colon, shots = name.strip().rpartition(":")
    if not colon:
        return TaskRequest(name.strip(), num_fewshot)
    if not shots.isascii() or not shots.isdigit():
        raise DataError("tasks", name, "TASK or TASK:SHOTS, such as arc_challenge:25", "correct the number")
    return replace(TaskRequest(task), num_fewshot=int(shots))
