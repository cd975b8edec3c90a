"""Instruction tuning with predictors."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.data import build_conversations
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from tasks.training import finetune as finetune_model
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="finetune", flow_run_name=run_name)
def finetune(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Tunes on conversations and trains one activation predictor per FFN beside it (Section 7)."""
    run = open_request(preset, overrides, dry_run, placement)
    build_conversations(run)
    result = finetune_model(run)
    publish(result)
    return result
