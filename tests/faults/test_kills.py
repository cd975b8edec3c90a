"""Every stage, killed again and again: it ends as one that was not, and nothing is left."""

import shutil
import time
from random import Random

import pytest
from commands import Bench, EndedTooSoon, digests, losses
from phases import PHASES, Phase, num_rounds

from turbosparse.artifacts import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_000)]

LOSS_TOLERANCE = 1e-6
NUM_TRIES = 4
"""Of a kill, before it counts as come too late."""


def pytest_generate_tests(metafunc) -> None:
    """As many rounds over all moments as `--kills` asks for."""
    metafunc.parametrize("round_number", range(num_rounds(metafunc.config.getoption("--kills"))))


def kill_at(bench: Bench, command: list[str], phase: Phase, dice: Random) -> None:
    """Runs a command until its moment has come, and kills."""
    happens = phase.watch(bench.root, dice)
    for _ in range(NUM_TRIES):
        if not bench.is_running:
            bench.start(*command)
        try:
            bench.wait_for(happens)
            break
        except EndedTooSoon:
            if bench.process.returncode == 0:  # seen too late: it is made once more
                shutil.rmtree(bench.root / phase.kind)
                happens = phase.watch(bench.root, dice)
            else:  # Prefect's task was out of retries: an operator starts it again
                assert bench.process.returncode == 1, bench.said()
    else:
        pytest.fail(f"{phase.name}: every kill came too late: {bench.said()}")
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


@pytest.mark.parametrize("flow", PHASES)
def test_a_killed_stage_ends_as_an_undisturbed_one(
    flow, round_number, words, undisturbed, bench, dice, kills
):
    command, expected = ["run", flow, *words], undisturbed.upto(flow)
    undisturbed.copy_parents(flow, bench.root)
    for phase in PHASES[flow]:
        kill_at(bench, command, phase, dice)
    finish(bench, command)
    bench.check_nothing_is_half_visible()
    bench.check_nothing_is_left()
    made = Store(str(bench.root))
    assert digests(made, flow) == digests(expected, flow)
    if flow in ("pretrain", "finetune"):
        assert losses(made, flow) == pytest.approx(losses(expected, flow), abs=LOSS_TOLERANCE)
    kills.extend(f"{flow}: {phase.victim} killed while {phase.name}" for phase in PHASES[flow])
