"""Predictors for a model that stays as it is: layer by layer, from hidden states on disk."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.config import PredictorConfig
from turbosparse.model.folder import assemble
from turbosparse.predictors.fit import Fitted, fit_predictor
from turbosparse.predictors.states import States, Unit, collect_states, plan_passes, units_of
from turbosparse.progress import OnProgress, Progress, ignore_progress


def fit_predictors(
    model: PreTrainedModel,
    windows: Callable[[], Iterable[Tensor]],
    config: PredictorConfig,
    ranks: Sequence[int],
    work: Path,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> PreTrainedModel:
    """Returns the same model, weights shared, with predictors fitted to what its FFNs do on a text.

    Hidden states take at most `post_hoc.disk_budget_bytes` under `work`; where not all layers fit, the
    text is run through the model once for each group of layers that does. A finished predictor
    is a file: called again with the same `work`, the function goes on with the unit that it was in.
    One predictor trains at a time on each device.

    Args:
        model: one of ours; dense or a mixture of experts.
        windows: starts reading windows of token ids [tokens] anew, always the same.
        config: labels, learning rate, and how states are collected.
        ranks: each layer's.
        work: this call's own folder, for states and finished predictors.
        seed: decides initial weights and the order of rows.
        on_progress: hears of every finished predictor.

    Raises:
        ConfigError: One layer's states alone exceed the disk budget.
        DataError: Too little text for a layer or an expert.
    """
    units = units_of(model)
    num_done = sum(_file(work, unit).is_file() for unit in units)

    def report(unit: Unit, fitted: Fitted) -> None:
        nonlocal num_done
        num_done += 1
        values = {"held_back_loss": fitted.held_back_loss, "layer": float(unit.layer)}
        on_progress(Progress("predictors", num_done, len(units), "predictors", values))

    for number, layers in enumerate(plan_passes(model, config)):
        mine = [unit for unit in units if unit.layer in layers]
        if not all(_file(work, unit).is_file() for unit in mine):
            states = collect_states(model, windows(), mine, config, work / f"pass-{number}")
            _fit_all([one for one in states if one.is_there], ranks, config, seed, work, report)
        shutil.rmtree(work / f"pass-{number}", ignore_errors=True)
    return _with_fitted(model, ranks, work)


def devices() -> list[torch.device]:
    """Returns what predictors can train on at the same time: every GPU, or the CPU."""
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return gpus or [torch.device("cpu")]


def fitted_records(model: PreTrainedModel, work: Path) -> list[dict[str, Any]]:
    """Returns each finished predictor's held-back loss, epochs and rows, in the order of layers."""
    records = []
    for unit in units_of(model):
        with safe_open(_file(work, unit), framework="pt") as file:
            records.append({"layer": unit.layer, "expert": unit.expert, **json.loads(file.metadata()["fit"])})
    return records


def _fit_all(
    waiting: Sequence[States],
    ranks: Sequence[int],
    config: PredictorConfig,
    seed: int,
    work: Path,
    report: Callable[[Unit, Fitted], None],
) -> None:
    free: SimpleQueue[torch.device] = SimpleQueue()
    for device in devices():
        free.put(device)

    def fit(states: States) -> None:
        device = free.get()
        try:
            fitted = fit_predictor(states, ranks[states.unit.layer], config, seed, device)
        finally:
            free.put(device)
        _write(fitted, _file(work, states.unit))
        states.remove()
        report(states.unit, fitted)

    with ThreadPoolExecutor(free.qsize()) as executor:
        fits = [executor.submit(fit, states) for states in waiting]
        try:
            for done in fits:
                done.result()
        finally:
            # After the first that fails, those not yet begun would be waited for.
            executor.shutdown(cancel_futures=True)


def _file(work: Path, unit: Unit) -> Path:
    return work / f"{unit.name}.safetensors"


def _write(fitted: Fitted, path: Path) -> None:
    about = {
        "held_back_loss": fitted.held_back_loss,
        "num_epochs": fitted.num_epochs,
        "num_rows": fitted.num_rows,
    }
    draft = path.with_suffix(".draft")
    save_file({"fc1": fitted.fc1, "fc2": fitted.fc2}, draft, metadata={"fit": json.dumps(about)})
    draft.replace(path)


def _with_fitted(model: PreTrainedModel, ranks: Sequence[int], work: Path) -> PreTrainedModel:
    config = type(model.config)(**{**model.config.to_dict(), "predictor_rank": list(ranks)})
    tensors = {name: tensor for name, tensor in model.state_dict().items() if ".predictor." not in name}
    for layer in range(config.num_hidden_layers):
        units = [unit for unit in units_of(model) if unit.layer == layer]
        for name in ("fc1", "fc2"):
            weight = _stacked(work, units, name)
            key = _place(layer, name, is_dense=units[0].expert is None)
            tensors[key] = weight.to(model.device, model.dtype)
    return assemble(config, tensors).eval()


def _stacked(work: Path, units: Sequence[Unit], name: str) -> Tensor:
    """Returns a dense layer's weight as it is, or those of all experts [experts, …]."""
    weights = []
    for unit in units:
        with safe_open(_file(work, unit), framework="pt") as file:
            weights.append(file.get_tensor(name))
    return weights[0] if units[0].expert is None else torch.stack(weights)


def _place(layer: int, name: str, is_dense: bool) -> str:
    mlp = f"model.layers.{layer}.mlp"
    return f"{mlp}.predictor.{name}.weight" if is_dense else f"{mlp}.experts.predictor.{name}"
