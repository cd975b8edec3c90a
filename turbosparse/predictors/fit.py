"""One predictor fitted to collected hidden states: AdamW, cross-entropy, an early stop on held-back rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from turbosparse.config import PredictorConfig
from turbosparse.errors import DataError
from turbosparse.model.predictor import Predictor
from turbosparse.predictors.loss import weighted_cross_entropy
from turbosparse.predictors.states import States


@dataclass(frozen=True)
class Fitted:
    """A predictor and how it came about."""

    fc1: Tensor
    """[rank, hidden], float32, on the CPU."""
    fc2: Tensor
    """[intermediate, rank], float32, on the CPU."""
    held_back_loss: float
    """Mean cross-entropy per neuron and token, on rows that were not trained on."""
    num_epochs: int
    """Passes over the rows until it stopped."""
    num_rows: int
    """Rows trained on."""


def fit_predictor(
    states: States, rank: int, config: PredictorConfig, seed: int, device: torch.device
) -> Fitted:
    """Trains a predictor on all rows but the last, and keeps the epoch that did best on those.

    The same states, seed and kind of device give the same predictor.

    Raises:
        DataError: There are too few rows to train on and to hold back.

    Reference: Liu et al., Deja Vu (2023); it stopped at a recall, which rewards keeping too much.
    """
    train, held_back = _split(states, config)
    generator = torch.Generator().manual_seed(_seed_of(states, seed))
    predictor = _initial(states, rank, train, generator).to(device)
    optimizer = torch.optim.AdamW(
        predictor.parameters(), lr=config.learning_rate, weight_decay=config.post_hoc.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, config.post_hoc.num_epochs * math.ceil(len(train) / config.post_hoc.batch_size_tokens)
    )
    best, best_loss, best_epoch, epoch = _weights(predictor), math.inf, 0, 0
    for epoch in range(1, config.post_hoc.num_epochs + 1):
        order = train[torch.randperm(len(train), generator=generator).numpy()]
        for rows in _batches(order, config.post_hoc.batch_size_tokens):
            optimizer.zero_grad()
            _mean_loss(predictor, states, rows, config.positive_weight).backward()
            optimizer.step()
            schedule.step()
        loss = _held_back_loss(predictor, states, held_back, config)
        if loss < best_loss:
            best, best_loss, best_epoch = _weights(predictor), loss, epoch
        elif epoch - best_epoch >= config.post_hoc.patience_epochs:
            break
    return Fitted(best["fc1.weight"], best["fc2.weight"], best_loss, epoch, len(train))


def _split(states: States, config: PredictorConfig) -> tuple[np.ndarray, np.ndarray]:
    num_held_back = round(states.num_rows * config.post_hoc.held_back_ratio)
    if not 0 < num_held_back < states.num_rows:
        raise DataError(
            f"tokens for {states.unit.name}",
            states.num_rows,
            "enough to train on and to hold back (an expert sees only what is routed to it)",
            "give more text, or raise post_hoc.num_tokens",
        )
    rows = np.arange(states.num_rows)
    return rows[:-num_held_back], rows[-num_held_back:]


def _seed_of(states: States, seed: int) -> int:
    # Its own for every unit, so that neither order nor company decides what a unit learns.
    return (seed * 1_000_003 + states.unit.layer) * 1_003 + (states.unit.expert or 0)


def _initial(states: States, rank: int, train: np.ndarray, generator: torch.Generator) -> Predictor:
    """Returns weights under which hidden units and logits start at about unit size, whatever the input's."""
    sample, _ = states.rows(train[:1_024])
    rms = float(sample.float().square().mean().sqrt())
    predictor = Predictor(states.shape.hidden_size, states.shape.intermediate_size, rank)
    with torch.no_grad():
        for weight, scale in ((predictor.fc1.weight, 1 / max(rms, 1e-6)), (predictor.fc2.weight, 1.0)):
            weight.normal_(std=scale / math.sqrt(weight.shape[1]), generator=generator)
    return predictor


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _mean_loss(predictor: Predictor, states: States, rows: np.ndarray, positive_weight: float) -> Tensor:
    hidden, active = states.rows(np.sort(rows))
    device = predictor.fc1.weight.device
    logits = predictor(hidden.to(device).float())
    return weighted_cross_entropy(logits, active.to(device), positive_weight) / active.numel()


@torch.no_grad()
def _held_back_loss(
    predictor: Predictor, states: States, held_back: np.ndarray, config: PredictorConfig
) -> float:
    total = torch.zeros(())
    for rows in _batches(held_back, config.post_hoc.batch_size_tokens):
        total += _mean_loss(predictor, states, rows, config.positive_weight).cpu() * len(rows)
    return float(total) / len(held_back)


def _weights(predictor: Predictor) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in predictor.state_dict().items()}
