"""Recovery."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from tasks.training import pretrain as pretrain_model
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="pretrain", flow_run_name=run_name)
def pretrain(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Continues pretraining until the dReLU model has recovered (Section 5)."""
    run = open_request(preset, overrides, dry_run, placement)
    result = pretrain_model(run)
    publish(result)
    return result
