"""A model folder evaluated, by one process or by several."""

from collections.abc import Sequence
from pathlib import Path

from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.evaluation.harness import DEFAULTS, EvaluationOptions, evaluate_model
from turbosparse.evaluation.ranks import joined_ranks
from turbosparse.evaluation.records import EvaluationResult
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model
from turbosparse.progress import OnProgress, ignore_progress


def evaluate_folder(
    model_folder: str | Path,
    tasks: Sequence[str],
    data_folder: Path | None = None,
    limit: int | None = None,
    options: EvaluationOptions = DEFAULTS,
    on_progress: OnProgress = ignore_progress,
) -> EvaluationResult:
    """Evaluates a model folder on the best device there is, together with the ranks of torchrun, if any.

    Args:
        model_folder: a Llama, Mistral, Mixtral or TurboSparse folder.
        tasks: as `evaluate_model` takes them.
        data_folder: items; None: the hub's.
        limit: items per task at the most.
        options: examples, predictors, top-k masks, batches.
        on_progress: hears of requests completed.

    Raises:
        TurboSparseError: The folder, a task or its data can't be used, or the model gives no numbers.
    """
    if data_folder is not None and not data_folder.is_dir():
        raise DataError("data", str(data_folder), "a folder of items", "check the path")
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    on_best_device(model)
    with joined_ranks() as ranks:
        return evaluate_model(model, tokenizer, tasks, data_folder, limit, on_progress, options, ranks)
