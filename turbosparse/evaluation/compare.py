"""Evaluations side by side: the same items, paired tests, regressions first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from turbosparse.artifacts.opening import open_artifact
from turbosparse.errors import DataError
from turbosparse.evaluation.paired import NUM_RESAMPLES, SEED, Paired, holm
from turbosparse.evaluation.records import RESULTS_FILE, EvaluationResult, ItemRecord, read_result
from turbosparse.evaluation.suites import SUITES

SIGNIFICANCE = 0.05
LARGE = 1_000
_PREFERRED = ("acc", "exact_match,strict-match", "exact_match")
_WORD_PERPLEXITY = "word_perplexity"


@dataclass(frozen=True)
class Difference:
    """One task, or group of tasks, of an evaluation against the first one."""

    evaluation: str
    """Whose figure it is."""
    task: str
    metric: str
    num_items: int
    baseline_value: float
    value: float
    interval: tuple[float, float]
    """95%, of the difference."""
    is_better: bool
    """Whether the difference is one for the better; False where there is none."""
    test: str
    p_value: float
    """Two-sided."""
    p_worse: float
    """One-sided: small where the evaluation is worse than the first."""
    corrected_p_value: float = math.nan
    """Two-sided, corrected for the number of tasks."""
    corrected_p_worse: float = math.nan
    """One-sided, corrected for the number of tasks."""

    @property
    def verdict(self) -> str:
        """What can be said: `worse`, `better` or `no difference found`."""
        if self.corrected_p_value >= SIGNIFICANCE:
            return "no difference found"
        return "better" if self.is_better else "worse"

    def as_json(self) -> dict[str, Any]:
        """Returns all of it, the verdict too."""
        return asdict(self) | {"difference": self.value - self.baseline_value, "verdict": self.verdict}


def open_evaluation(where: str) -> EvaluationResult:
    """Returns an evaluation: an artifact by its URI, or a folder that `evaluate --out` wrote.

    Raises:
        DataError: It is neither.
        ArtifactError: The artifact is missing or damaged.
    """
    if (Path(where) / RESULTS_FILE).is_file():
        return read_result(Path(where))
    artifact = open_artifact(where)
    if RESULTS_FILE not in artifact.manifest.files:
        raise DataError("evaluation", where, "an evaluate artifact", "see turbosparse store ls")
    return read_result(artifact.folder())


def compare(evaluations: Mapping[str, EvaluationResult]) -> list[Difference]:
    """Compares every evaluation with the first, task by task, on their paired items.

    A group such as mmlu counts as one task. p-values are corrected for the number of tasks (Holm).

    Args:
        evaluations: at least two, by label; of the same items.

    Returns:
        Significant losses first, then what may be noise, then significant gains.

    Raises:
        DataError: Fewer than two, or tasks, examples, limits, versions or items differ (named).
    """
    if len(evaluations) < 2:
        raise DataError("evaluations", list(evaluations), "at least two", "name another one")
    (first, baseline), *others = evaluations.items()
    found: list[Difference] = []
    for label, evaluation in others:
        _check_alike(first, baseline, label, evaluation)
        found += _corrected(list(_differences(baseline, label, evaluation)))
    order = {"worse": 0, "no difference found": 1, "better": 2}
    return sorted(
        found, key=lambda one: (order[one.verdict], one.is_better, one.corrected_p_value, one.p_value)
    )


def show_figure(value: float, sign: str = "") -> str:
    """Returns a figure as tables show it: four decimals, or four digits of what is large."""
    return f"{value:{sign}.4f}" if abs(value) < LARGE else f"{value:{sign}.4g}"


def how_compared() -> dict[str, Any]:
    """Returns what the tests were, for JSON."""
    return {"seed": SEED, "num_resamples": NUM_RESAMPLES, "significance": SIGNIFICANCE, "correction": "Holm"}


def _check_alike(first: str, one: EvaluationResult, second: str, other: EvaluationResult) -> None:
    told: dict[str, tuple[object, object]] = {
        "tasks": (sorted(_by_task(one)), sorted(_by_task(other))),
        "examples per prompt": (one.num_fewshot, other.num_fewshot),
        "limit": (one.settings["limit"], other.settings["limit"]),
        "versions of tasks": (one.versions, other.versions),
    }
    for name, (here, there) in told.items():
        if here != there:
            raise _unlike(name, first, here, second, there)
    for task, records in _by_task(one).items():
        theirs = _by_task(other)[task]
        if [_item(record) for record in records] != [_item(record) for record in theirs]:
            problem = "other items, or other prompts"
            raise _unlike(task, first, f"{len(records)} items", second, f"{len(theirs)} items; {problem}")


def _unlike(name: str, first: str, here: object, second: str, there: object) -> DataError:
    remedy = "evaluate both with the same tasks, examples, limit and data"
    return DataError(name, f"{first}: {here}; {second}: {there}", "the same in both", remedy)


def _item(record: ItemRecord) -> tuple[int, str, str]:
    return record.doc_id, record.doc_hash, record.prompt_hash


def _by_task(evaluation: EvaluationResult) -> dict[str, list[ItemRecord]]:
    found: dict[str, list[ItemRecord]] = {}
    for record in sorted(evaluation.records, key=lambda one: (one.task, one.doc_id)):
        found.setdefault(record.task, []).append(record)
    return found


def _units(evaluation: EvaluationResult) -> dict[str, list[str]]:
    """Returns tasks by the largest group that they are in, or by themselves."""
    units: dict[str, list[str]] = {}
    for task in _by_task(evaluation):
        holding = [name for name, tasks in evaluation.groups.items() if task in tasks]
        largest = max(holding, key=lambda name: len(evaluation.groups[name]), default=task)
        units.setdefault(largest, []).append(task)
    return units


def _differences(
    baseline: EvaluationResult, label: str, evaluation: EvaluationResult
) -> Iterator[Difference]:
    before, after = _by_task(baseline), _by_task(evaluation)
    for unit, tasks in _units(baseline).items():
        old, new = ([record for task in tasks for record in found[task]] for found in (before, after))
        metric = _metric(unit, old[0])
        is_lower_better = baseline.higher_is_better.get(tasks[0], {}).get(metric) is False
        paired = _paired(metric, old, new, is_lower_better)
        first, second = paired.values
        yield Difference(
            evaluation=label,
            task=unit,
            metric=metric,
            num_items=len(old),
            baseline_value=first,
            value=second,
            interval=paired.interval(),
            is_better=bool(paired.after.sum() > paired.before.sum()),
            test=paired.test,
            p_value=paired.p_value(),
            p_worse=paired.p_worse(),
        )


def _corrected(differences: list[Difference]) -> list[Difference]:
    both = holm([one.p_value for one in differences]), holm([one.p_worse for one in differences])
    return [
        replace(one, corrected_p_value=p_value, corrected_p_worse=p_worse)
        for one, p_value, p_worse in zip(differences, *both, strict=True)
    ]


def _metric(task: str, record: ItemRecord) -> str:
    """Returns the metric that counts: the one of the paper's averages, else the usual one of its kind.

    One metric per task: several of the same answers would only be corrected for each other.
    """
    if "words" in record.sizes:
        return _WORD_PERPLEXITY
    averages = [average for suite in SUITES.values() for average in suite.averages]
    of_paper = [average.metrics[task] for average in averages if task in average.metrics]
    wanted = [*of_paper, *_PREFERRED, *record.metrics]
    metric = next((name for name in wanted if name in record.metrics), None)
    if metric is None:
        remedy = "leave the task out of both evaluations"
        raise DataError("tasks", task, "a task whose items have figures of their own", remedy)
    return metric


def _paired(
    metric: str, old: Sequence[ItemRecord], new: Sequence[ItemRecord], is_lower_better: bool
) -> Paired:
    if metric == _WORD_PERPLEXITY:
        before, after = ([sum(one.log_likelihoods) for one in records] for records in (old, new))
        sizes = [one.sizes["words"] for one in old]
        return Paired(_floats(before), _floats(after), _floats(sizes), lambda mean: math.exp(-mean))
    sign = -1.0 if is_lower_better else 1.0
    before, after = ([sign * one.metrics[metric] for one in records] for records in (old, new))
    return Paired(_floats(before), _floats(after), np.ones(len(old)), lambda mean: sign * float(mean))


def _floats(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(values, dtype=np.float64)
