"""The page's part on training: losses, speed, and tasks that were evaluated meanwhile."""

from collections.abc import Iterator
from typing import Any

from turbosparse.artifacts import Manifest
from turbosparse.evaluation.compare import show_figure
from turbosparse.reports.lineage import PipelineRun
from turbosparse.reports.page import Block, Picture, Section, Table, Text
from turbosparse.train.history import StepRecord, read_history

STAGES = {"base": "SwiGLU base", "pretrain": "dReLU recovery", "finetune": "instruction tuning"}


def training_section(run: PipelineRun) -> Section:
    """Returns losses by stage, their curves, and in-loop evaluations."""
    trained = {kind: run.stages[kind] for kind in STAGES if kind in run.stages}
    if not trained:
        return Section("Training", [Text("Not measured: nothing was trained.")])
    header = ["stage", "steps", "first loss", "last loss", "held-back loss", "tokens/s", "MFU", "memory"]
    blocks: list[Block] = [Table(header, [_row(run, kind, found) for kind, found in trained.items()])]
    for kind in trained:
        path = run.file(kind, "history.png")
        if path is not None:
            blocks.append(Picture(path.read_bytes(), f"{kind}: {STAGES[kind]}, step by step"))
        blocks += _tasks(kind, _history(run, kind))
    blocks.append(Text("Losses are nats per token; the last is the mean over the last tenth of the steps."))
    return Section("Training", blocks)


def _history(run: PipelineRun, kind: str) -> list[StepRecord]:
    path = run.file(kind, "history.jsonl")
    return [] if path is None else read_history(path)


def _row(run: PipelineRun, kind: str, manifest: Manifest) -> list[str]:
    metrics, history = manifest.metrics, _history(run, kind)
    validated = [record.validation_losses for record in history if record.validation_losses]
    memory = metrics.get("peak_memory_bytes")
    return [
        STAGES[kind],
        f"{len(history):,}",
        f"{metrics['first_loss']:.3f}",
        f"{metrics['last_loss']:.3f}",
        _losses(validated[-1]) if validated else "–",
        f"{metrics['tokens_per_second']:,.0f}",
        f"{metrics['mfu']:.1%}" if "mfu" in metrics else "–",
        f"{memory / 2**30:.2f} GiB" if memory else "–",
    ]


def _losses(by_category: dict[str, float]) -> str:
    return ", ".join(f"{name} {loss:.2f}" for name, loss in by_category.items())


def _tasks(kind: str, history: list[StepRecord]) -> Iterator[Table]:
    measured: list[tuple[int, dict[str, Any]]] = [
        (record.step, record.task_results) for record in history if record.task_results
    ]
    if measured:
        names = list(measured[0][1])
        rows = [[step, *(show_figure(found[name]) for name in names)] for step, found in measured]
        yield Table(["step", *names], rows, f"Tasks evaluated during {STAGES[kind]}.")
