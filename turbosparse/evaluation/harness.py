"""Evaluation by lm-evaluation-harness of a model in memory: its prompts and figures, our computation."""

import copy
import logging
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from turbosparse.errors import ModelError
from turbosparse.evaluation.loading import LoadedTasks, Sources, load_tasks
from turbosparse.evaluation.modes import DENSE, Computation
from turbosparse.evaluation.ranks import ALONE, Ranks
from turbosparse.evaluation.records import EvaluationResult
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.progress import OnProgress, ignore_progress
from turbosparse.scratch import scratch_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from turbosparse.evaluation.harness_model import HarnessModel

NUM_BOOTSTRAP_SAMPLES = 1_000
"""Resamples behind the standard error of a metric without a closed form, such as perplexity."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated, beside on what."""

    num_fewshot: int | None = None
    """Examples in each prompt of tasks that do not say themselves; None: the tasks' own default."""
    computation: Computation = DENSE
    """How its FFNs compute."""
    held_back: Path | None = None
    """The file that local tasks are made of; None: the data folder's."""
    max_batch_tokens: int | None = None
    """Tokens per forward pass; None: as many as the device is good at."""


DEFAULTS = EvaluationOptions()


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    data_folder: Path | None = None,
    limit: int | None = None,
    on_progress: OnProgress = ignore_progress,
    options: EvaluationOptions = DEFAULTS,
    ranks: Ranks = ALONE,
) -> EvaluationResult:
    """Measures a causal language model on the tasks; figures are those of the harness's command line.

    Nothing goes to standard output. The model computes on the device it is on, in evaluation mode, and is
    left as it was.

    Args:
        model: any causal language model of transformers.
        tokenizer: its tokenizer; not changed.
        tasks: the harness's names, `local_cloze`, `local_text` and suites, `name:shots` (see `suites`).
        data_folder: items of the harness's tasks (see `offline_rows`), or held_back.jsonl, of which local
            tasks are made; None: the hub's items.
        limit: items per task at the most.
        on_progress: hears of requests completed.
        options: examples, predictors, top-k masks, batches.
        ranks: processes that share the work; each gets the whole result.

    Raises:
        DataError: an unknown task, no data for it, or no examples (named).
        ModelError: a figure that is not a finite number, or a computation that the model can't do.
    """
    plan = plan_tasks(tasks, options.num_fewshot)
    options.computation.check(model)
    sources = Sources(data_folder, options.held_back)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder("turbosparse-evaluate-"))
        stack.enter_context(_quiet_harness())
        stack.enter_context(_seeded())
        loaded = load_tasks(plan.tasks, sources, scratch)
        stack.enter_context(options.computation.applied_to(model))
        stack.enter_context(_evaluating(model))
        harness_model = _harness_model(model, tokenizer, options, on_progress, ranks)
        evaluated = _run(harness_model, loaded, limit)
    from turbosparse.evaluation.results import result_of  # noqa: PLC0415 - imports the harness

    return result_of(evaluated, loaded, harness_model, plan.averages, _settings(model, options, limit))


def _harness_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    options: EvaluationOptions,
    on_progress: OnProgress,
    ranks: Ranks,
) -> "HarnessModel":
    from turbosparse.evaluation.harness_model import HarnessModel  # noqa: PLC0415 - takes seconds

    # The harness gives a tokenizer a padding token where it has none: let it have a copy.
    own_tokenizer = copy.deepcopy(tokenizer)
    mode = options.computation.mode
    return HarnessModel(model, own_tokenizer, mode, options.max_batch_tokens, on_progress, ranks)


def _run(model: "HarnessModel", loaded: LoadedTasks, limit: int | None) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate  # noqa: PLC0415 - takes seconds

    try:
        # Not simple_evaluate: it starts programs to describe the machine, for five seconds.
        evaluated: dict[str, Any] = evaluate(
            model, loaded.as_harness_takes_them(), limit=limit, bootstrap_iters=NUM_BOOTSTRAP_SAMPLES
        )
    except OverflowError as error:
        remedy = "check the model: its weights or activations overflow"
        raise ModelError("perplexity", math.inf, "a finite number", remedy) from error
    return evaluated


def _settings(model: "PreTrainedModel", options: EvaluationOptions, limit: int | None) -> dict[str, Any]:
    return {
        "mode": options.computation.mode,
        "topk_ratio": options.computation.topk_ratio,
        "limit": limit,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _seeded() -> Iterator[None]:
    """Gives tasks that draw at random the seeds of the harness's command line, then the old states back."""
    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(1234)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1234)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


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
