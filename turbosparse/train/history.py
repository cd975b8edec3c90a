"""The training history: one record per optimizer step, continued after a restart."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step measured, over all ranks."""

    step: int
    loss: float
    """Mean language-model loss per token of the global batch, in nats."""
    tokens_per_second: float
    learning_rate: float
    gradient_norm: float | None = None
    """Of the model's gradients, before clipping."""
    mfu: float | None = None
    """Model FLOPs utilisation, in [0, 1]; None where the device's peak is not known."""
    memory_bytes: int | None = None
    """Largest rank's peak so far: allocated on its GPU, or resident without one."""
    is_skipped: bool = False
    """Whether the step's update was left out, as `on_bad_step: skip` asks."""
    zero_activation_ratio: float | None = None
    """Share of FFN activations that are exactly zero; measured at some steps only."""
    zero_activation_layers: list[float] | None = None
    """The same by layer."""
    busiest_expert_load: list[float] | None = None
    """By layer: tokens of the busiest expert over an even share (1: perfectly balanced)."""
    validation_losses: dict[str, float] | None = None
    """Loss on held-back text by category of the mixture; measured at some steps only."""
    task_results: dict[str, float] | None = None
    """Figures of evaluation tasks by `task.metric`; measured at some steps only."""
    other_losses: dict[str, float] = field(default_factory=dict)
    """What else the optimizer minimises, by name: levers' terms with their weight, others without."""
    predictor_recall: float | None = None
    """Share of active neurons that the predictors found; only where predictors train."""


def append_record(path: Path, record: StepRecord) -> None:
    """Adds one line to the history."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_history(path: Path) -> list[StepRecord]:
    """Returns the records in the order of steps.

    Steps that ran again after a restart count as they ran last.
    """
    return decode_history(path.read_text(encoding="utf-8"))


def decode_history(text: str) -> list[StepRecord]:
    """Returns what `read_history` does, from the file's content."""
    records = {}
    for line in text.splitlines():
        # A kill may cut the last line; its step runs again.
        if line.endswith("}"):
            record = StepRecord(**json.loads(line))
            records[record.step] = record
    return [records[step] for step in sorted(records)]


def write_history(path: Path, history: list[StepRecord]) -> None:
    """Replaces the history: a restart forgets the steps after its checkpoint."""
    draft = path.with_suffix(".draft")
    draft.write_text(encode_history(history), encoding="utf-8")
    draft.replace(path)


def encode_history(history: list[StepRecord]) -> str:
    """Returns the history as it lies in its file."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in history)


def summarise(history: list[StepRecord], num_steps: int) -> dict[str, Any]:
    """Returns the stage's metrics; every step must be in the history.

    `last_loss` is the mean over the last tenth of the steps: with a few thousand tokens in a batch, a
    single step's loss says more about its text than about the model.
    """
    assert [record.step for record in history] == list(range(1, num_steps + 1))
    speeds = sorted(record.tokens_per_second for record in history)
    last = [record.loss for record in history[-max(1, num_steps // 10) :]]
    zeros = [r.zero_activation_ratio for r in history if r.zero_activation_ratio is not None]
    summary: dict[str, Any] = {
        "first_loss": history[0].loss,
        "last_loss": sum(last) / len(last),
        "tokens_per_second": speeds[len(speeds) // 2],
        "zero_activation_ratio": zeros[-1],
        "num_skipped_steps": sum(record.is_skipped for record in history),
    }
    utilisation = sorted(record.mfu for record in history if record.mfu is not None)
    memory = [record.memory_bytes for record in history if record.memory_bytes is not None]
    evaluated = [record.task_results for record in history if record.task_results is not None]
    if evaluated:
        summary["task_results"] = evaluated[-1]
    if utilisation:
        summary["mfu"] = utilisation[len(utilisation) // 2]
    if memory:
        summary["peak_memory_bytes"] = max(memory)
    return summary
