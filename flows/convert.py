"""SwiGLU becomes dReLU."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from tasks.training import convert_to_drelu, train_base
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="convert", flow_run_name=run_name)
def convert(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Takes a SwiGLU model, training a base first where the preset says so, and makes it dReLU."""
    run = open_request(preset, overrides, dry_run, placement)
    if run.config.convert.source == "base":
        train_base(run)
    result = convert_to_drelu(run)
    publish(result)
    return result
