"""Export."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.export import export as export_model
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="export", flow_run_name=run_name)
def export(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Writes the tuned model for other engines and times its decoding (Section 7)."""
    run = open_request(preset, overrides, dry_run, placement)
    result = export_model(run)
    publish(result)
    return result
