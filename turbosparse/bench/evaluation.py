"""`turbosparse bench evaluate`: our scoring against the harness's own, on the same requests in one run."""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.evaluation.loading import Sources, load_tasks
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model
from turbosparse.scratch import scratch_folder

THEIR_BATCH_SIZES = (1, 8, 32)
"""Requests per forward pass of the harness: its command line's default, and larger ones."""


def measure_evaluation(
    model_folder: str, tasks: Sequence[str], data_folder: Path | None, limit: int, num_rounds: int
) -> dict[str, Any]:
    """Measures the seconds that a model takes for the requests of tasks, ours and the harness's by turns.

    Prompts are made once, outside of the time; tokenizing them is inside of both. The harness gets each
    of several batch sizes, and its fastest counts.

    Args:
        model_folder: what is evaluated.
        tasks: as `evaluate` takes them.
        data_folder: items; None: the hub's.
        limit: items per task.
        num_rounds: turns of each way; medians are reported.

    Returns:
        ratio: the harness's seconds over ours, by task and for all tasks; seconds by task and way;
        the largest difference of a log-likelihood; what it was measured on.

    Raises:
        TurboSparseError: The model, a task or its data can't be used.
    """
    plan = plan_tasks(tasks)
    model, tokenizer = on_best_device(load_model(model_folder)), load_tokenizer(model_folder)
    found: dict[str, dict[str, Any]] = {}
    with scratch_folder("turbosparse-bench-evaluate-") as scratch:
        loaded = load_tasks(plan.tasks, Sources(data_folder), scratch)
        for name, task in loaded.tasks.items():
            task.build_all_requests(limit=limit, rank=0, world_size=1)
            found[name] = _measure_task(model, tokenizer, task.instances, num_rounds)
    ours = sum(figures["seconds"]["turbosparse"] for figures in found.values())
    theirs = sum(figures["seconds"][figures["fastest_harness"]] for figures in found.values())
    return {
        "ratio": theirs / ours,
        "tasks": found,
        "limit": limit,
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _measure_task(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Any], num_rounds: int
) -> dict[str, Any]:
    ways = _ways(model, tokenizer, requests)
    answers = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, way in ways.items():
            seconds[name].append(_seconds(way, model))
    medians = {name: median(times) for name, times in seconds.items()}
    fastest = min((name for name in ways if name != "turbosparse"), key=medians.__getitem__)
    return {
        "ratio": medians[fastest] / medians["turbosparse"],
        "fastest_harness": fastest,
        "num_requests": len(requests),
        "seconds": medians,
        **_difference(answers["turbosparse"], answers[fastest]),
    }


def _ways(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Any]
) -> dict[str, Callable[[], list[Any]]]:
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - takes seconds

    from turbosparse.evaluation.harness_model import HarnessModel  # noqa: PLC0415

    verb = requests[0].request_type
    models = {"turbosparse": HarnessModel(model, copy.deepcopy(tokenizer))}
    for size in THEIR_BATCH_SIZES:
        own_tokenizer = copy.deepcopy(tokenizer)
        models[f"harness, batches of {size}"] = HFLM(
            pretrained=model, backend="causal", tokenizer=own_tokenizer, batch_size=size
        )
    return {name: _asking(one, verb, requests) for name, one in models.items()}


def _asking(model: Any, verb: str, requests: Sequence[Any]) -> Callable[[], list[Any]]:
    return lambda: getattr(model, verb)(list(requests), disable_tqdm=True)


def _seconds(way: Callable[[], list[Any]], model: PreTrainedModel) -> float:
    started = time.perf_counter()
    way()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _difference(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[str, float]:
    """Returns how far answers lie apart: log-likelihoods, or the share of texts that differ."""
    if isinstance(ours[0], str):
        differing = sum(one != other for one, other in zip(ours, theirs, strict=True))
        return {"differing_text_ratio": differing / len(ours)}
    pairs = zip(map(_log_likelihood, ours), map(_log_likelihood, theirs), strict=True)
    return {"largest_difference": max(abs(one - other) for one, other in pairs)}


def _log_likelihood(answer: Any) -> float:
    return float(answer[0] if isinstance(answer, tuple) else answer)
