"""SwiGLU becomes dReLU."""

from typing import Any

from prefect import flow

from tasks.reports import publish
from tasks.stage import StageResult
from tasks.training import convert_to_drelu, train_base
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="convert", flow_run_name="convert-{preset}")
def convert(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Takes a SwiGLU model, training a base first where the preset says so, and makes it dReLU."""
    run = open_run(preset, overrides, dry_run, placement)
    if run.config.convert.source == "base":
        train_base(run)
    result = convert_to_drelu(run)
    publish(result)
    return result
