"""Evaluation by lm-evaluation-harness of a model in memory, on local tasks or the harness's own."""

import copy
import difflib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbosparse.data.held_back import read_documents
from turbosparse.errors import DataError
from turbosparse.evaluation.local_tasks import LOCAL_TASKS, make_local_task
from turbosparse.evaluation.offline_tasks import offline_file, write_offline_task
from turbosparse.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HELD_BACK = "held_back.jsonl"
NUM_BOOTSTRAP_SAMPLES = 1_000
"""Resamples behind the standard error of a metric without a closed form, such as perplexity."""
FEWSHOT_SEED = 1234
"""The harness's own default."""
SHOWN_TARGET_CHARACTERS = 80


@dataclass(frozen=True)
class EvaluationResult:
    """What the harness measured."""

    results: dict[str, dict[str, float]]
    """Figures by task and metric; `<metric>_stderr` is the standard error."""
    num_items: dict[str, int]
    """Items measured by task."""
    samples: dict[str, list[dict[str, Any]]]
    """Per task and item: doc_id, target, log_likelihoods (one per request), and its metrics."""


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    data_folder: Path | None = None,
    limit: int | None = None,
    on_progress: OnProgress = ignore_progress,
    batch_size: int = 8,
) -> EvaluationResult:
    """Measures a causal language model on the tasks, each text starting with beginning of text.

    Prints nothing. The model computes on the device it is on, in evaluation mode, and is left as it was.

    Args:
        model: any causal language model of transformers.
        tokenizer: its tokenizer; not changed.
        tasks: `local_cloze` and `local_text`, and names that the harness knows.
        data_folder: holds held_back.jsonl, of which the local tasks are made, or items of the harness's
            tasks (see `offline_tasks`); what it lacks comes from the hub.
        limit: items per task at the most.
        on_progress: hears of requests completed.
        batch_size: requests per forward pass.

    Raises:
        DataError: unknown task, no data for it (named), or a figure that is not a finite number.
    """
    _check_local(tasks, data_folder)
    with tempfile.TemporaryDirectory(prefix="turbosparse-evaluate-") as scratch, _quiet_harness():
        loaded = _load_tasks(tasks, data_folder, Path(scratch))
        was_training = model.training
        try:
            evaluated = _run(model, tokenizer, loaded, limit, on_progress, batch_size)
        finally:
            model.train(was_training)
    return EvaluationResult(
        {task: _figures(task, values) for task, values in evaluated["results"].items()},
        {task: sizes["effective"] for task, sizes in evaluated["n-samples"].items()},
        {
            task: [_sample(task, sample) for sample in samples]
            for task, samples in evaluated["samples"].items()
        },
    )


def _check_local(tasks: Sequence[str], data_folder: Path | None) -> None:
    if not tasks:
        raise DataError(
            "tasks", list(tasks), "at least one task", "name some, such as local_cloze,local_text"
        )
    local = [task for task in tasks if task in LOCAL_TASKS]
    if local and data_folder is None:
        expected = f"a data folder with {HELD_BACK}, of which {', '.join(LOCAL_TASKS)} are made"
        raise DataError("tasks", local, expected, "give the folder that prepare made with --data")


def _load_tasks(tasks: Sequence[str], data_folder: Path | None, scratch: Path) -> "list[Task]":
    """Builds the tasks in the order given, a group's or tag's members together."""
    others = [task for task in tasks if task not in LOCAL_TASKS]
    manager = _task_manager(with_harness_tasks=bool(others))
    _check_known(others, manager.all_tasks)
    documents = read_documents(data_folder / HELD_BACK) if data_folder and len(others) < len(tasks) else []
    loaded: list[Task] = []
    for task in dict.fromkeys(tasks):
        if task in LOCAL_TASKS:
            config = make_local_task(task, documents, scratch)
            with _offline():
                loaded += manager.load([config])["tasks"].values()
        elif (items := offline_file(task, data_folder)) is not None:
            harness_yaml = Path(manager.task_index[task].yaml_path)
            file = write_offline_task(task, harness_yaml, items, scratch)
            with _offline():
                loaded += manager.load([str(file)])["tasks"].values()
        else:
            loaded += _load_from_hub(task, manager)
    for task_object in loaded:
        task_object.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


@cache
def _task_manager(with_harness_tasks: bool) -> Any:
    """Returns the harness's register; its own tasks take ten seconds to list, once in a process."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes seconds

    return TaskManager(include_defaults=with_harness_tasks)


def _check_known(tasks: Sequence[str], known: Sequence[str]) -> None:
    unknown = [task for task in tasks if task not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=5)
        similar = f", such as {', '.join(close)}" if close else ""
        raise DataError(
            "tasks",
            unknown,
            f"{', '.join(LOCAL_TASKS)}, or one of the {len(known)} tasks of lm-evaluation-harness{similar}",
            "list those with `lm_eval ls tasks`",
        )


def _load_from_hub(task: str, manager: Any) -> "list[Task]":
    try:
        return list(manager.load([task])["tasks"].values())
    except Exception as error:  # the hub's client has no one error for 'can't reach it'
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            "tasks",
            task,
            f"a task whose data can be had from the Hugging Face hub ({reason})",
            f"go online, or evaluate {', '.join(LOCAL_TASKS)}, which need no network",
        ) from error


def _run(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: "list[Task]",
    limit: int | None,
    on_progress: OnProgress,
    batch_size: int,
) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate  # noqa: PLC0415 - takes seconds
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    from turbosparse.evaluation.harness_model import HarnessModel  # noqa: PLC0415

    # The harness gives a tokenizer a padding token where it has none: let it have a copy.
    harness_model = HarnessModel(model, copy.deepcopy(tokenizer), batch_size, on_progress)
    try:
        # Not simple_evaluate: it starts programs to describe the machine, for five seconds.
        return evaluate(
            harness_model,
            TaskManager(include_defaults=False).load(tasks),
            limit=limit,
            bootstrap_iters=NUM_BOOTSTRAP_SAMPLES,
        )
    except OverflowError as error:
        raise _not_a_number("perplexity", math.inf) from error


def _figures(task: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Keeps the numbers, named `acc` instead of `acc,none`; another filter than `none` stays in the name."""
    figures = {}
    for name, value in values.items():
        metric, comma, _ = name.partition(",")
        if comma and isinstance(value, int | float):
            if not math.isfinite(value):
                raise _not_a_number(f"{task}, {metric}", value)
            figures[name.removesuffix(",none")] = float(value)
    return figures


def _not_a_number(figure: str, value: float) -> DataError:
    return DataError(figure, value, "a finite number", "check the model: its weights or activations overflow")


def _sample(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    responses = [
        response[0] if isinstance(response, tuple) else response for response in sample["filtered_resps"]
    ]
    log_likelihoods = [response for response in responses if isinstance(response, float)]
    if any(map(math.isnan, log_likelihoods)):  # which accuracy alone would not show
        raise _not_a_number(f"{task}, log-likelihood of item {sample['doc_id']}", math.nan)
    scores = {name: sample[name] for name in sample["metrics"] if "perplexity" not in name}  # those are logs
    return {
        "doc_id": sample["doc_id"],
        "target": str(sample["target"]).strip()[:SHOWN_TARGET_CHARACTERS],
        "log_likelihoods": log_likelihoods,
        **{name: score for name, score in scores.items() if isinstance(score, int | float)},
    }


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Keeps the harness off standard output, which may carry our caller's JSON."""
    import datasets  # noqa: PLC0415 - takes seconds

    logger = logging.getLogger("lm_eval")
    level = logger.level
    # The harness would start a pool of processes to bootstrap a few hundred figures.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    datasets.disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _offline() -> Iterator[None]:
    """Keeps the data set library off the network: it may be imported already, so its own flag counts."""
    import datasets  # noqa: PLC0415 - takes seconds

    was_offline = datasets.config.HF_DATASETS_OFFLINE
    datasets.config.HF_DATASETS_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE = was_offline
