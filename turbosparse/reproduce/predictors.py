"""Two ways to train activation predictors, on the same frozen model and the same text."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.config import PredictorConfig, validate
from turbosparse.config.resolve import merge
from turbosparse.errors import DataError
from turbosparse.fitting import SEED, FittingText, fitting_text
from turbosparse.model.convert import with_predictors
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model
from turbosparse.predictors.post_hoc import fit_predictors, fitted_records
from turbosparse.predictors.quality import measure_quality
from turbosparse.predictors.ranks import ranks_of
from turbosparse.predictors.states import first_tokens
from turbosparse.predictors.thresholds import ChosenThresholds, choose_thresholds, write_thresholds
from turbosparse.reports.predictor_plots import plot_trade_off, write_trade_off
from turbosparse.reproduce.common import Reproduction, Request, labelled_folders, percent
from turbosparse.train.observer import TrainingObserver

DEFAULTS: dict[str, Any] = {
    "parameter_ratio": 0.9,
    "learning_rate": 5e-3,
    "post_hoc": {"num_tokens": 150_000, "num_epochs": 10},
}
"""For models of a few hundred thousand parameters, which are no smaller than what predicts them."""


@dataclass(frozen=True)
class Arm:
    """One way's predictors, and how they did."""

    name: str
    num_passes: float
    """Over the training text; the mean over predictors."""
    seconds: float
    chosen: ChosenThresholds
    quality: dict[str, Any]


def reproduce(request: Request) -> Reproduction:
    """Trains predictors both ways for the request's model, chooses thresholds, and measures both.

    `joint` is what runs beside instruction tuning, here with the model held still: its observer, its
    loss, one pass. `post-hoc` passes several times over states on disk. Text is the request's, or
    sampled from the model; --set takes the fields of finetune.predictor.

    Raises:
        DataError: Not one model, or too little text.
        TurboSparseError: Sizes that can't work.

    Reference: Section 7 of the paper has predictors, and no figures on them.
    """
    folders = labelled_folders(request.models)
    if len(folders) != 1:
        raise DataError("--model", list(request.models), "one model folder", "give --model DIR once")
    ((label, folder),) = folders.items()
    config = _configured(request)
    model = load_model(folder)
    on_best_device(model)
    text = fitting_text(model, folder, request.text, config, request.listener.on_progress)
    ranks = ranks_of(model, first_tokens(text.train, config.threshold.num_tokens), config)
    arms = [_fit_jointly(model, text, config, ranks), _fit_post_hoc(model, text, config, ranks, request)]
    request.out.mkdir(parents=True, exist_ok=True)
    plot = request.out / "predictors.png"
    plot_trade_off({arm.name: arm.chosen.curve for arm in arms}, plot)
    tables = [request.out / f"predictors-{arm.name}.csv" for arm in arms]
    for arm, table in zip(arms, tables, strict=True):
        write_trade_off(arm.chosen.curve, table)
    return Reproduction(
        name="predictors",
        title=f"Predictors of {label}: joint against post-hoc",
        header=[
            *("method", "passes", "seconds", "recall", "precision", "predicted active", "truly active"),
            *("predicted / true", "perplexity over exact"),
        ],
        rows=[_row(arm) for arm in arms],
        measured={arm.name: _record(arm) for arm in arms} | {"ranks": list(ranks)},
        paper={},
        notes=[
            f"Ranks {', '.join(map(str, ranks))}; {sum(map(len, text.train)):,} tokens to train on, "
            f"{sum(map(len, text.choose)):,} others to choose thresholds on, {sum(map(len, text.report)):,} "
            "to measure on.",
            "Ratios are means over layers.",
        ],
        plots=[plot],
        tables=tables,
    )


def _configured(request: Request) -> PredictorConfig:
    tree = merge(DEFAULTS, dict(request.overrides))
    if "rank" in request.overrides:
        tree["parameter_ratio"] = request.overrides.get("parameter_ratio")
    return validate(PredictorConfig, tree, source="the command line")


def _fit_jointly(
    model: PreTrainedModel, text: FittingText, config: PredictorConfig, ranks: Sequence[int]
) -> Arm:
    started = time.monotonic()
    widened = with_predictors(model, ranks, SEED).requires_grad_(False)
    weights = [weight for name, weight in widened.named_parameters() if ".predictor." in name]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
    batches = list(_batches(text.train, config.post_hoc.batch_size_tokens))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    observer = TrainingObserver(config)
    for batch in batches:
        observer.start_step(counts=False)
        optimizer.zero_grad()
        for window in batch:
            with observer.watching(widened, observer):
                widened(input_ids=window[None].to(widened.device), use_cache=False)
        loss = observer.predictor_loss()
        assert loss is not None
        loss.backward()
        optimizer.step()
        schedule.step()
    return _measured("joint", 1.0, time.monotonic() - started, widened.requires_grad_(False), text, config)


def _fit_post_hoc(
    model: PreTrainedModel,
    text: FittingText,
    config: PredictorConfig,
    ranks: Sequence[int],
    request: Request,
) -> Arm:
    started, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="turbosparse-predictors-"))
    try:
        fitted = fit_predictors(
            model, lambda: iter(text.train), config, ranks, work, SEED, request.listener.on_progress
        )
        fits = fitted_records(model, work)
    finally:
        shutil.rmtree(work)
    num_passes = sum(fit["num_epochs"] for fit in fits) / len(fits)
    return _measured("post-hoc", num_passes, time.monotonic() - started, fitted, text, config)


def _batches(windows: Sequence[Tensor], num_tokens: int) -> Iterator[list[Tensor]]:
    """Yields windows in groups of at least so many tokens, the last group apart."""
    group: list[Tensor] = []
    for window in windows:
        group.append(window)
        if sum(map(len, group)) >= num_tokens:
            yield group
            group = []
    if group:
        yield group


def _measured(
    name: str,
    num_passes: float,
    seconds: float,
    model: PreTrainedModel,
    text: FittingText,
    config: PredictorConfig,
) -> Arm:
    chosen = choose_thresholds(model, text.choose, config.threshold)
    write_thresholds(model, chosen)
    quality, _ = measure_quality(model, text.report)
    return Arm(name, num_passes, seconds, chosen, quality)


def _row(arm: Arm) -> list[object]:
    quality = arm.quality
    shown = ("recall", "precision", "predicted_active_ratio", "true_active_ratio")
    return [
        arm.name,
        f"{arm.num_passes:.1f}",
        f"{arm.seconds:.0f}",
        *(percent(quality[name]) for name in shown),
        f"{quality['predicted_active_ratio'] / quality['true_active_ratio']:.3f}",
        f"{quality['perplexity_ratio']:.4f}",
    ]


def _record(arm: Arm) -> dict[str, Any]:
    return {
        "num_passes": arm.num_passes,
        "seconds": arm.seconds,
        **arm.quality,
        "thresholds": arm.chosen.as_json(),
    }
