"""Every stage, killed again and again: it ends as one that was not, and nothing is left.

What may differ are timings (`history.jsonl`, the model card's speed), and the corpus's index, which names
attempts.
"""

import json
import time
from random import Random

import pytest
from commands import Bench, EndedTooSoon, copy_artifacts, digests
from phases import PHASES, Phase, num_rounds

from turbosparse.artifacts import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_500)]

ORDER = ("documents", "tokens", "prepare", "base", "convert", "pretrain")
ORDER += ("instructions", "finetune", "evaluate", "export")
MADE_BY = {"prepare": {"documents", "tokens", "prepare"}, "finetune": {"instructions", "finetune"}}
TIMED = {
    "prepare/index.json",
    *(f"{kind}/{name}" for kind in ("pretrain", "finetune") for name in ("history.jsonl", "history.png")),
    "export/model/README.md",
}
LOSS_TOLERANCE = 1e-6


def pytest_generate_tests(metafunc) -> None:
    """As many rounds over all moments as `--kills` asks for."""
    metafunc.parametrize("round_number", range(num_rounds(metafunc.config.getoption("--kills"))))


def kill_at(bench: Bench, command: list[str], phase: Phase, dice: Random) -> None:
    """Runs a command until its moment has come, and kills."""
    happens = phase.watch(bench.root, dice)
    for attempt in range(2):
        if not bench.is_running:
            bench.start(*command)
        try:
            bench.wait_for(happens)
            break
        except EndedTooSoon:
            # Prefect's task was out of retries: an operator starts it again.
            assert attempt == 0 and bench.process.returncode == 1, bench.said()
    time.sleep(dice.uniform(0, phase.jitter_seconds))
    bench.kill(phase.victim)
    if phase.victim == "command":
        bench.check_nothing_runs()
        bench.check_nothing_is_half_visible()


def finish(bench: Bench, command: list[str]) -> None:
    """Lets a command run to its end, restarted if need be."""
    if bench.is_running and bench.finish() == 0:
        return
    bench.start(*command)
    assert bench.finish() == 0, bench.said()


def losses(store: Store, kind: str) -> list[float]:
    """The loss of every step of a training."""
    (manifest,) = (found for found in store.manifests() if found.kind == kind)
    history = store.file(manifest, "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in history]


@pytest.mark.parametrize("stage", PHASES)
def test_a_killed_stage_ends_as_an_undisturbed_one(
    stage, round_number, words, undisturbed, bench, dice, kills
):
    made, command = MADE_BY.get(stage, {stage}), ["run", stage, *words]
    parents = ORDER[: min(ORDER.index(kind) for kind in made)]
    copy_artifacts(undisturbed, bench.root, set(parents))
    for phase in PHASES[stage]:
        kill_at(bench, command, phase, dice)
    finish(bench, command)
    bench.check_nothing_is_half_visible()
    bench.check_nothing_is_left()
    assert digests(bench.root, made, TIMED) == digests(undisturbed.local_root, made, TIMED)
    for kind in made & {"pretrain", "finetune"}:
        expected = pytest.approx(losses(undisturbed, kind), abs=LOSS_TOLERANCE)
        assert losses(Store(str(bench.root)), kind) == expected
    kills.extend(f"{stage}: {phase.victim} killed while {phase.name}" for phase in PHASES[stage])
