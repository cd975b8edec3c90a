"""The whole method, from corpus to export."""

from prefect import flow

from flows.convert import convert
from flows.evaluate import evaluate
from flows.export import export
from flows.finetune import finetune
from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from flows.prepare import prepare
from flows.pretrain import pretrain
from tasks.reports import publish_pipeline
from tasks.stage import StageResult
from turbosparse.config import Overrides, Placement, PresetName


@flow(name="pipeline", flow_run_name=run_name)
def pipeline(
    preset: PresetName = PRESET,
    overrides: Overrides = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement = PLACEMENT,
) -> dict[str, StageResult]:
    """Corpus → dReLU → recovery → instruction tuning with predictors → evaluation → export."""
    method = (prepare, convert, pretrain, finetune, evaluate, export)
    results = [stage(preset, overrides, dry_run, placement) for stage in method]
    publish_pipeline(results)
    return {result.stage: result for result in results}
