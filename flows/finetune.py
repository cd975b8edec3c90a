"""Instruction tuning with predictors."""

from typing import Any

from prefect import flow

from tasks.data import build_conversations
from tasks.reports import publish
from tasks.stage import StageResult
from tasks.training import finetune as finetune_model
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="finetune", flow_run_name="finetune-{preset}")
def finetune(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Tunes on conversations and trains one activation predictor per FFN beside it (Section 7)."""
    run = open_run(preset, overrides, dry_run, placement)
    build_conversations(run)
    result = finetune_model(run)
    publish(result)
    return result
