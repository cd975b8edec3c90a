"""Scheduled retraining: the champion learns on, and a candidate that holds the gate takes its place."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.parameters import DRY_RUN, OVERRIDES, PLACEMENT, PRESET, run_name
from tasks.data import build_conversations, prepare_corpus
from tasks.evaluation import evaluate
from tasks.export import export
from tasks.reports import publish
from tasks.request import open_request
from tasks.retraining import (
    evaluate_champion,
    judge,
    nothing_new,
    only_retraining,
    promote,
    rejected,
    skipped,
)
from tasks.stage import StageResult
from tasks.training import convert_to_drelu, finetune, pretrain, train_base
from turbosparse.config import Overrides, Placement, PresetName
from turbosparse.promotion import RetrainingUnderWay
from turbosparse.stages import Run, branched, nothing_to_learn

Results = dict[str, StageResult]


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    preset: PresetName = PRESET,
    overrides: Overrides | None = OVERRIDES,
    dry_run: bool = DRY_RUN,
    placement: Placement | None = PLACEMENT,
) -> Results | State[Any]:
    """New text → the champion's recovered model reads on → tuned, measured, promoted if the gate holds.

    The first run of a root makes its first champion by the whole pipeline. A run ends as Rejected where
    the gate refuses the candidate, as Skipped where another retraining runs, as NothingNew where there
    is nothing to learn.
    """
    run = open_request(preset, overrides, dry_run, placement)
    try:
        with only_retraining(run) as lease:
            run = branched(run)
            if (reason := nothing_to_learn(run)) is not None:
                return nothing_new(reason)
            results = _make_candidate(run)
            if not results["verdict"].metrics["holds"]:
                return rejected(results["verdict"])
            results["export"] = export(run)
            promote(run, lease)
            return results
    except RetrainingUnderWay as error:
        return skipped(error)


def _make_candidate(run: Run) -> Results:
    """Trains, tunes and measures a candidate, and lets the gate judge it."""
    results = [prepare_corpus(run)]
    if run.branch is None:
        results += [train_base(run)] if run.config.convert.source == "base" else []
        results.append(convert_to_drelu(run))
    results += [pretrain(run), build_conversations(run), finetune(run), evaluate(run)]
    if run.branch is not None:
        evaluate_champion(run)
    results.append(judge(run))
    for result in results:
        publish(result)
    return {result.stage: result for result in results}
