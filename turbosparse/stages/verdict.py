"""Whether a candidate may be the champion, and why not: an artifact that stays beside both evaluations."""

import json
from typing import Any

from turbosparse.artifacts import Artifact, Workspace
from turbosparse.evaluation.compare import Difference, compare
from turbosparse.evaluation.records import read_result
from turbosparse.progress import Listener
from turbosparse.promotion.gate import Measured, Verdict, judge
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:  # noqa: ARG001 - as all
    """Fills the workspace with verdict.json and report.md.

    Raises:
        ConfigError: The gate asks for what was not measured.
        DataError: The two evaluations are not of the same items.
    """
    parents = {role: require(run, spec) for role, spec in Specs(run).verdict.parents.items()}
    candidate, champion = parents["candidate"], parents.get("champion")
    tasks = _compared(champion, candidate) if champion is not None else []
    before = _measured(champion) if champion is not None else None
    verdict = judge(run.config.retrain.gate, _measured(candidate), before, tasks)
    (workspace.folder / "verdict.json").write_text(json.dumps(verdict.as_json(), indent=1), encoding="utf-8")
    (workspace.folder / "report.md").write_text(_markdown(verdict, tasks), encoding="utf-8")
    return {"holds": verdict.holds, "reasons": verdict.reasons, "num_checks": len(verdict.checks)}


def _measured(evaluation: Artifact) -> Measured:
    return Measured.of(evaluation.manifest.metrics)


def _compared(champion: Artifact, candidate: Artifact) -> list[Difference]:
    return compare({"champion": read_result(champion.folder()), "candidate": read_result(candidate.folder())})


def _markdown(verdict: Verdict, tasks: list[Difference]) -> str:
    outcome = "The candidate may be the champion." if verdict.holds else "The champion stays."
    checks = [
        f"| {check.name} | {check.measured:.4g} | {check.bound} | {'yes' if check.holds else '**no**'} |"
        for check in verdict.checks
    ]
    rows = [
        f"| {task.task}.{task.metric} | {task.num_items} | {task.baseline_value:.4g} | {task.value:.4g} | "
        f"{task.verdict} |"
        for task in tasks
    ]
    if rows:
        rows = ["", "| task | items | champion | candidate | |", "| --- | --- | --- | --- | --- |", *rows]
    table = ["| what | measured | bound | holds |", "| --- | --- | --- | --- |", *checks]
    return "\n".join([f"# Gate: {outcome}", "", *table, *rows, ""])
