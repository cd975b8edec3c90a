"""Recovery."""

from typing import Any

from prefect import flow

from tasks.reports import publish
from tasks.stage import StageResult
from tasks.training import pretrain as pretrain_model
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="pretrain", flow_run_name="pretrain-{preset}")
def pretrain(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Continues pretraining until the dReLU model has recovered (Section 5)."""
    run = open_run(preset, overrides, dry_run, placement)
    result = pretrain_model(run)
    publish(result)
    return result
