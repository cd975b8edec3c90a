"""Predictors for a model folder that stays as it is: text, fit, thresholds, report and the folder itself."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.text import check_windows, iterate_windows, read_texts
from turbosparse.config import PredictorConfig
from turbosparse.config.levers import SamplingConfig
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError, ModelError
from turbosparse.export.huggingface import check_target, copy_tokenizer
from turbosparse.inference.sampled_documents import sample_documents
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import check_model_folder, load_model, save_model
from turbosparse.model.released import RELEASED_TYPES
from turbosparse.predictors.post_hoc import fit_predictors, fitted_records
from turbosparse.predictors.quality import measure_quality
from turbosparse.predictors.ranks import ranks_of
from turbosparse.predictors.states import first_tokens, plan_passes
from turbosparse.predictors.thresholds import choose_thresholds, chosen_values, write_thresholds
from turbosparse.progress import OnProgress, ignore_progress
from turbosparse.reports.predictor_plots import write_predictor_report

WINDOW_TOKENS = 512
SEED = 17
REPORT_NAME = "predictor-report"


@dataclass(frozen=True)
class FittingText:
    """Windows of token ids [tokens] in three parts that have none in common."""

    train: list[Tensor]
    choose: list[Tensor]
    """Held back, to choose thresholds on."""
    report: list[Tensor]
    """Held back, to measure on."""


def fit_folder(
    source: str,
    target: Path,
    text: Path | None,
    config: PredictorConfig,
    on_progress: OnProgress = ignore_progress,
) -> dict[str, Any]:
    """Writes `source`'s model to `target` with predictors and chosen thresholds, and a report beside.

    Killed and run again with the same arguments, it goes on with the predictor that it was in.

    Args:
        source: model folder: dReLU, dense or a mixture of experts.
        target: folder to write; new or empty.
        text: text file, or JSONL with a text field; None: text sampled from the model itself.
        config: `method: post_hoc`.
        on_progress: hears of sampling and of every finished predictor.

    Returns:
        What `measure_quality` returns, with model, fits, and `chosen_values`.

    Raises:
        TurboSparseError: A model, text, size or disk budget that can't work; nothing is written.
    """
    _check_is_sparse(check_model_folder(source), config)
    check_target(target)
    model = load_model(source)
    on_best_device(model)
    plan_passes(model, config)  # A disk budget that is too small is refused before text is sampled.
    found = fitting_text(model, source, text, config, on_progress)
    ranks = ranks_of(model, first_tokens(found.train, config.threshold.num_tokens), config)
    work = target.with_name(f"{target.name}.{_identity(source, text, config)}.partial")
    fitted = fit_predictors(model, lambda: iter(found.train), config, ranks, work, SEED, on_progress)
    chosen = choose_thresholds(fitted, found.choose, config.threshold)
    if not config.threshold.keep_zero:
        write_thresholds(fitted, chosen)
    quality, layers = measure_quality(fitted, found.report)
    draft = work / "model"
    shutil.rmtree(draft, ignore_errors=True)  # a run that was killed while it wrote
    save_model(fitted, draft)
    copy_tokenizer(Path(source), draft)
    (draft / REPORT_NAME).mkdir()
    write_predictor_report(quality, layers, chosen, draft / REPORT_NAME)
    fits = fitted_records(model, work)
    if target.exists():
        target.rmdir()
    shutil.move(draft, target)
    shutil.rmtree(work)
    return {**quality, **chosen_values(fitted), "model": str(target), "fits": fits}


def fitting_text(
    model: PreTrainedModel,
    folder: str,
    text: Path | None,
    config: PredictorConfig,
    on_progress: OnProgress = ignore_progress,
) -> FittingText:
    """Returns text to fit predictors to, and to hold back, its windows in a random order of their own.

    Raises:
        DataError: The text can't be read, or nothing is left to train on.
        ModelError: The model can't sample text.
    """
    num_held_back = config.threshold.num_tokens
    num_tokens = config.post_hoc.num_tokens + 2 * num_held_back
    length = min(WINDOW_TOKENS, model.config.max_position_embeddings)
    windows = list(
        _sampled(model, num_tokens, length, on_progress)
        if text is None
        else iterate_windows(load_tokenizer(folder), read_texts(text), length, num_tokens)
    )
    check_windows(windows)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(SEED)).tolist()
    rest = chain(windows[number] for number in order)
    choose, report = (_take(rest, num_held_back) for _ in range(2))
    train = list(rest)
    if not train:
        raise DataError(
            "text",
            f"{sum(map(len, windows))} tokens",
            f"more than the {2 * num_held_back} that are held back (threshold.num_tokens, twice)",
            "give more text, or lower threshold.num_tokens",
        )
    return FittingText(train, choose, report)


def _check_is_sparse(values: dict[str, Any], config: PredictorConfig) -> None:
    default = "drelu" if values["model_type"] in RELEASED_TYPES else "swiglu"
    if values.get("activation", default) == "swiglu" and config.label_threshold == 0.0:
        remedy = "convert it first (turbosparse convert), or set label_threshold above 0"
        raise ModelError("activation", "swiglu", "one with exact zeros, such as drelu", remedy)


def _sampled(
    model: PreTrainedModel, num_tokens: int, length: int, on_progress: OnProgress
) -> Iterator[Tensor]:
    settings = SamplingConfig(num_tokens=num_tokens, max_document_tokens=length - 1, seed=SEED)
    for document in sample_documents(model, settings, on_progress):
        yield torch.tensor([model.config.bos_token_id, *document])


def _take(windows: Iterator[Tensor], num_tokens: int) -> list[Tensor]:
    """Returns windows until they have as many tokens; the last one whole."""
    taken: list[Tensor] = []
    while sum(map(len, taken)) < num_tokens and (window := next(windows, None)) is not None:
        taken.append(window)
    return taken


def _identity(source: str, text: Path | None, config: PredictorConfig) -> str:
    """Names what is computed: a folder of unfinished work serves the same request only."""
    files: Iterable[Path] = [*sorted(Path(source).glob("*.safetensors")), *([text] if text else [])]
    stamps = [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join([config.model_dump_json(), *stamps]).encode()).hexdigest()[:12]
