"""What the harness returns, as our result: plain figures, a record per item, intervals, averages."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from turbosparse.evaluation.harness_model import HarnessModel, not_a_number
from turbosparse.evaluation.loading import LoadedTasks
from turbosparse.evaluation.records import EvaluationResult, ItemRecord
from turbosparse.evaluation.suites import Average, average_of
from turbosparse.evaluation.tally import Item, Tally

SHOWN_TARGET_CHARACTERS = 80
NORMAL_97_5 = 1.959964
"""Standard errors on either side of a 95% confidence interval."""
_VERSIONED = ("lm-eval", "transformers", "torch")

Figures = dict[str, dict[str, float]]


def result_of(
    evaluated: Mapping[str, Any],
    loaded: LoadedTasks,
    model: HarnessModel,
    averages: Sequence[Average],
    settings: Mapping[str, Any],
) -> EvaluationResult:
    """Returns the result of one run of the harness.

    Raises:
        ModelError: A figure is not a finite number.
    """
    results = {task: _figures(task, values) for task, values in evaluated["results"].items()}
    records = [
        record
        for task, samples in evaluated["samples"].items()
        for record in _records(task, samples, model.tally)
    ]
    _add_token_perplexity(results, model.tally)
    groups = {
        name: [task.task_name for task in group.get_all_tasks()] for name, group in loaded.groups.items()
    }
    num_items = {task: sizes["effective"] for task, sizes in evaluated["n-samples"].items()}
    num_items |= {name: sum(num_items[task] for task in tasks) for name, tasks in groups.items()}
    return EvaluationResult(
        results={task: figures for task, figures in results.items() if figures},
        num_items=num_items,
        records=records,
        num_too_long=_num_too_long(records, groups),
        intervals={task: _intervals(figures) for task, figures in results.items()},
        higher_is_better={
            task: {metric: bool(better) for metric, better in known.items() if better is not None}
            for task, known in evaluated["higher_is_better"].items()
        },
        num_fewshot={task: evaluated["n-shot"].get(task, 0) for task in loaded.tasks},
        fewshot_source=loaded.fewshot_source,
        versions={task: str(known) for task, known in evaluated["versions"].items()},
        groups=groups,
        averages={average.name: average_of(average, results) for average in averages},
        settings={
            **settings,
            "context_tokens": model.max_length,
            "versions": {name: version(name) for name in _VERSIONED},
        },
    )


def _figures(task: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Keeps the numbers, named `acc` instead of `acc,none`; another filter than `none` stays in the name."""
    figures = {}
    for name, value in values.items():
        _, comma, _ = name.partition(",")
        if comma and isinstance(value, int | float):
            if not math.isfinite(value):
                raise not_a_number(f"{task}, {name}", value)
            figures[name.removesuffix(",none")] = float(value)
    return figures


def _intervals(figures: Mapping[str, float]) -> dict[str, list[float]]:
    found = {}
    for name, error in figures.items():
        metric, comma, filter_name = name.partition(",")
        if metric.endswith("_stderr"):
            metric = metric.removesuffix("_stderr") + comma + filter_name
            value = figures[metric]
            found[metric] = [value - NORMAL_97_5 * error, value + NORMAL_97_5 * error]
    return found


def _records(task: str, samples: Sequence[Mapping[str, Any]], tally: Tally) -> list[ItemRecord]:
    """Returns one record per item; the harness has one sample per item and filter."""
    by_item: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_item.setdefault(sample["doc_id"], []).append(sample)
    return [_record((task, number), alike, tally) for number, alike in sorted(by_item.items())]


def _record(item: Item, samples: Sequence[Mapping[str, Any]], tally: Tally) -> ItemRecord:
    first = samples[0]
    answers = first["filtered_resps"]
    scored = [answer for answer in answers if isinstance(answer, tuple)]
    of_texts = [answer for answer in answers if isinstance(answer, float)]
    is_generated = not scored and not of_texts
    metrics: dict[str, float] = {}
    sizes = {"tokens": tally.texts[item].num_tokens} if item in tally.texts else {}
    for sample in samples:
        of_filter, of_text = _scores(sample)
        metrics |= of_filter
        sizes |= of_text
    return ItemRecord(
        *item,
        doc_hash=first["doc_hash"],
        prompt_hash=first["prompt_hash"],
        target=str(first["target"]).strip()[:SHOWN_TARGET_CHARACTERS],
        log_likelihoods=tuple(score for score, _ in scored) or tuple(of_texts),
        is_greedy=tuple(is_greedy for _, is_greedy in scored),
        responses=tuple(str(one["filtered_resps"][0]) for one in samples) if is_generated else (),
        metrics=metrics,
        sizes=sizes,
        num_too_long=tally.num_too_long[item],
    )


def _scores(sample: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """Returns a sample's scores, and the sizes of its text; logs of perplexities are in its answers."""
    metrics: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for name in sample["metrics"]:
        value = sample[name]
        if isinstance(value, tuple) and name in ("word_perplexity", "byte_perplexity"):
            sizes[f"{name.removesuffix('_perplexity')}s"] = int(value[1])
        elif isinstance(value, int | float) and "perplexity" not in name:
            metrics[name if sample["filter"] == "none" else f"{name},{sample['filter']}"] = float(value)
    return metrics, sizes


def _add_token_perplexity(results: Figures, tally: Tally) -> None:
    for task in {task for task, _ in tally.texts}:
        texts = [text for (of_task, _), text in tally.texts.items() if of_task == task]
        num_tokens = sum(text.num_tokens for text in texts)
        results[task]["token_perplexity"] = math.exp(-sum(text.log_likelihood for text in texts) / num_tokens)


def _num_too_long(records: Sequence[ItemRecord], groups: Mapping[str, Sequence[str]]) -> dict[str, int]:
    counts = {record.task: 0 for record in records}
    for record in records:
        counts[record.task] += record.num_too_long > 0
    return counts | {name: sum(counts[task] for task in tasks) for name, tasks in groups.items()}
