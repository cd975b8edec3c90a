"""Corpora become shards."""

from prefect import flow

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.data import prepare_corpus
from tasks.reports import publish
from tasks.request import open_request
from tasks.stage import StageResult
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="prepare", flow_run_name=run_name)
def prepare(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> StageResult:
    """Builds the recovery corpus at Table 4's ratios."""
    run = open_request(preset, overrides, dry_run, placement)
    result = prepare_corpus(run)
    publish(result)
    return result
