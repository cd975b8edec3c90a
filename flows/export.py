"""Export."""

from typing import Any

from prefect import flow

from tasks.export import export as export_model
from tasks.reports import publish
from tasks.stage import StageResult
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="export", flow_run_name="export-{preset}")
def export(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Writes the tuned model for other engines and times its decoding (Section 7)."""
    run = open_run(preset, overrides, dry_run, placement)
    result = export_model(run)
    publish(result)
    return result
