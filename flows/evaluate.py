"""Evaluation."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.evaluation import evaluate as evaluate_model
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="evaluate", flow_run_name=run_name)
def evaluate(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Measures the tuned model: tasks, sparsity by layer, activated parameters (Section 6)."""
    run = open_request(preset, overrides, dry_run, placement)
    result = evaluate_model(run)
    publish(result)
    return result
