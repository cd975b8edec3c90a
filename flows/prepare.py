"""Corpora become shards."""

from typing import Any

from prefect import flow

from tasks.data import prepare_corpus
from tasks.reports import publish
from tasks.stage import StageResult
from turbosparse.config import Placement, PresetName
from turbosparse.stages import open_run


@flow(name="prepare", flow_run_name="prepare-{preset}")
def prepare(
    preset: PresetName = "300m",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> StageResult:
    """Builds the recovery corpus at Table 4's ratios."""
    run = open_run(preset, overrides, dry_run, placement)
    result = prepare_corpus(run)
    publish(result)
    return result
