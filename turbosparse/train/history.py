"""The training history: one record per optimizer step, continued after a restart."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step measured, over all ranks."""

    step: int
    loss: float
    """Mean language-model loss per token of the global batch, in nats."""
    tokens_per_second: float
    learning_rate: float
    zero_activation_ratio: float | None = None
    """Share of FFN activations that are exactly zero; measured at some steps only."""
    predictor_recall: float | None = None
    """Share of active neurons that the predictors found; only where predictors train."""
    predictor_loss: float | None = None
    """Binary cross-entropy of the predictors; only where predictors train."""


def append_record(path: Path, record: StepRecord) -> None:
    """Adds one line to the history."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_history(path: Path) -> list[StepRecord]:
    """Returns the records in the order of steps.

    Steps that ran again after a restart count as they ran last.
    """
    records = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # A kill may cut the last line; its step runs again.
        if line.endswith("}"):
            record = StepRecord(**json.loads(line))
            records[record.step] = record
    return [records[step] for step in sorted(records)]


def summarise(history: list[StepRecord], num_steps: int) -> dict[str, float]:
    """Returns the stage's metrics; every step must be in the history.

    `last_loss` is the mean over the last tenth of the steps: with a few thousand tokens in a batch, a
    single step's loss says more about its text than about the model.
    """
    assert [record.step for record in history] == list(range(1, num_steps + 1))
    steady = sorted(record.tokens_per_second for record in history)
    last = [record.loss for record in history[-max(1, num_steps // 10) :]]
    measured = [r.zero_activation_ratio for r in history if r.zero_activation_ratio is not None]
    return {
        "first_loss": history[0].loss,
        "last_loss": sum(last) / len(last),
        "tokens_per_second": steady[len(steady) // 2],
        "zero_activation_ratio": measured[-1],
    }
