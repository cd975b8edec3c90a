"""The page's part on tasks: the tuned model, the original where it was evaluated, and the paper."""

from collections.abc import Mapping
from typing import Any

from turbosparse.errors import DataError
from turbosparse.evaluation.compare import Difference, compare, show_figure
from turbosparse.evaluation.records import read_result
from turbosparse.reports.lineage import PipelineRun
from turbosparse.reports.page import Block, Notes, Section, Table, Text
from turbosparse.reports.paper import original_and_sparse

HEADER = (
    "task",
    "metric",
    "items",
    "shots",
    "this model",
    "95%",
    "original",
    "paper's original",
    "paper's sparse",
)


def evaluation_section(run: PipelineRun) -> Section:
    """Returns figures by task and metric, and what can be said of the difference to the original model."""
    found = run.metrics("evaluate")
    if found is None:
        return Section("Evaluation", [Text("Not measured: evaluate has not run.")])
    original = run.base_evaluation.metrics["results"] if run.base_evaluation else {}
    is_moe = run.json("finetune", "model/config.json")["model_type"].endswith("mixtral")
    rows = [
        _row(found, original, task, metric, is_moe)
        for task, figures in found["results"].items()
        for metric in figures
        if "_stderr" not in metric
    ]
    return Section("Evaluation", [Table(HEADER, rows), *_against_original(run), Notes(_notes(found))])


def _row(
    found: Mapping[str, Any], original: Mapping[str, Any], task: str, metric: str, is_moe: bool
) -> list[str]:
    interval = found["intervals"][task].get(metric)
    before, paper = original.get(task, {}).get(metric), original_and_sparse(task, metric, is_moe)
    return [
        task,
        metric,
        f"{found['num_items'][task]:,}",
        str(found["num_fewshot"].get(task, "")),
        show_figure(found["results"][task][metric]),
        "" if interval is None else " – ".join(map(show_figure, interval)),
        "–" if before is None else show_figure(before),
        *(["not in it"] * 2 if paper is None else [f"{percent:.2f}%" for percent in paper]),
    ]


def _against_original(run: PipelineRun) -> list[Block]:
    if run.base_evaluation is None:
        how = "turbosparse run evaluate --place evaluated_model=URI, with the original's artifact or folder"
        return [Text(f"The original model was not evaluated on these items ({how}).")]
    folders = [run.store.fetch(manifest) for manifest in (run.base_evaluation, run.stages["evaluate"])]
    try:
        differences = compare(dict(zip(("original", "this model"), map(read_result, folders), strict=True)))
    except DataError as error:
        return [Text(f"The original model was evaluated otherwise: {error.field} differs.")]
    header = ["task", "metric", "original", "this model", "95% of the difference", "p, corrected", "so"]
    caption = "Paired tests on the same items, corrected for the number of tasks; losses first."
    return [Table(header, [_difference(one) for one in differences], caption)]


def _difference(one: Difference) -> list[str]:
    low, high = one.interval
    return [
        one.task,
        one.metric,
        show_figure(one.baseline_value),
        show_figure(one.value),
        f"{show_figure(low, '+')} – {show_figure(high, '+')}",
        f"{one.corrected_p_value:.2g}",
        one.verdict,
    ]


def _notes(found: Mapping[str, Any]) -> list[str]:
    settings = found["settings"]
    limit = "all items" if settings["limit"] is None else f"at most {settings['limit']} items of each task"
    notes = [
        f"Computed {settings['mode']}, {settings['dtype']}, on {settings['device']}; {limit}; "
        + ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
        + "."
    ]
    notes += [
        f"Average {name}: " + (average["why"] if average["value"] is None else f"{average['value']:.4f}")
        for name, average in found["averages"].items()
    ]
    cut = {task: number for task, number in found["num_too_long"].items() if number}
    if cut:
        listed = ", ".join(f"{number} of {task}" for task, number in cut.items())
        notes.append(f"Prompts cut to the context of {settings['context_tokens']:,} tokens: {listed}.")
    return notes
