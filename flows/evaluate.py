"""Evaluation."""

from typing import Any

from prefect import flow

from tasks.evaluation import evaluate as evaluate_model
from tasks.reports import publish
from tasks.stage import StageResult
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="evaluate", flow_run_name="evaluate-{preset}")
def evaluate(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Measures the tuned model: tasks, sparsity by layer, activated parameters (Section 6)."""
    run = open_run(preset, overrides, dry_run, placement)
    result = evaluate_model(run)
    publish(result)
    return result
