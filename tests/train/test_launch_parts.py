"""The launchers' parts, without processes: who hung, what a run ended with, what an agent is told."""

import json
import os
from dataclasses import replace
from multiprocessing import shared_memory

import psutil
import pytest

from turbosparse.config import Placement, SupervisionConfig
from turbosparse.errors import ConfigError, TrainingError, TrainingPreempted
from turbosparse.train.launch.command import AgentOptions, parse_options
from turbosparse.train.launch.heartbeat import FOLDER, Heartbeats, beat
from turbosparse.train.launch.outcome import Transcript
from turbosparse.train.launch.program import open_launcher
from turbosparse.train.launch.shared_memory import Segments

LIMITS = SupervisionConfig(startup_timeout_seconds=100, hang_timeout_seconds=10)


class Ranks:
    """Ranks whose clock the test turns."""

    def __init__(self, folder, monkeypatch):
        self._monkeypatch = monkeypatch
        self.seconds = 0.0
        self.heartbeats = Heartbeats(folder, range(4, 7), LIMITS, lambda: self.seconds)
        monkeypatch.setenv(FOLDER, str(folder))

    def beat(self, *ranks, number, **options):
        for rank in ranks:
            self._monkeypatch.setenv("RANK", str(rank))
            self._monkeypatch.setattr("turbosparse.train.launch.heartbeat._numbers", iter([number]))
            beat(f"step {number}", **options)


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    return Ranks(tmp_path, monkeypatch)


def test_start_up_may_take_longer_than_a_step(ranks):
    ranks.seconds = 99.0
    assert ranks.heartbeats.silence() is None
    ranks.beat(4, 5, 6, number=1)
    assert ranks.heartbeats.silence() is None
    ranks.seconds += 10.5
    assert ranks.heartbeats.silence().ranks == [4, 5, 6]


def test_the_rank_that_hangs_is_named_and_not_those_that_wait_for_it(ranks):
    ranks.beat(4, 5, 6, number=1)
    assert ranks.heartbeats.silence() is None
    ranks.beat(4, 6, number=2)
    ranks.seconds = 0.4
    assert ranks.heartbeats.silence() is None
    ranks.seconds = 20.0
    silence = ranks.heartbeats.silence()
    assert (silence.ranks, silence.doing, silence.seconds) == ([5], "step 1", 20.0)


def test_a_rank_that_never_came_up_is_named(ranks):
    ranks.beat(4, 5, number=1, is_slow=True)
    assert ranks.heartbeats.silence() is None
    ranks.seconds = 100.5
    assert ranks.heartbeats.silence().ranks == [6]


def test_a_slow_phase_is_no_hang(ranks):
    ranks.beat(4, 5, 6, number=1)
    ranks.heartbeats.silence()
    ranks.beat(4, 5, 6, number=2, is_slow=True)
    ranks.heartbeats.silence()
    ranks.seconds = 50.0
    assert ranks.heartbeats.silence() is None


def test_without_an_agent_a_beat_does_nothing(monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    beat("step 1")


def ended(*lines, status):
    log = []
    transcript = Transcript(lambda event: None, log.append)
    for line in lines:
        transcript.read(line)
    return transcript.error(status)


def line(name, **values):
    return json.dumps({"turbosparse": name, "values": values})


def test_a_refusal_becomes_the_users_error_again():
    refusal = line("refusal", kind="ConfigError", arguments=["a.b", 3, "four", "say four"])
    error = ended(refusal, line("failure", rank=1, exit_status=2), "noise", status=2)
    assert type(error) is ConfigError
    assert str(error) == str(ConfigError("a.b", 3, "four", "say four"))


def test_the_first_of_several_causes_counts():
    """The ranks that die of another's end must not be blamed."""
    error = ended(
        line("failure", rank=3, exit_status=-9), line("failure", rank=0, exit_status=1), "words", status=1
    )
    assert type(error) is TrainingError
    assert str(error) == "rank 3 was ended by SIGKILL:\nwords"


def test_a_hang_is_told_apart_from_the_kill_that_ends_it():
    error = ended(
        line("silence", ranks=[1, 2], seconds=12.3, doing="step 7"),
        line("failure", rank=1, exit_status=-9),
        status=1,
    )
    assert str(error) == "ranks 1, 2 hung: silent for 12 s, last heard at 'step 7'"


def test_being_told_to_stop_is_an_error_of_its_own():
    assert type(ended("saved", status=os.EX_TEMPFAIL)) is TrainingPreempted


def test_an_agent_reads_the_command_that_its_launcher_wrote(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "7")
    place = Placement(num_ranks=8, num_nodes=3, rendezvous="host:29500", supervision=LIMITS)
    told = AgentOptions.of(place, "/a/job.json", "some.worker")
    _, _, module, *arguments = told.command()
    assert module == "turbosparse.train.launch.agent"
    assert parse_options(arguments) == replace(told, node_rank=7), "in a pod, the pod's place"
    second = replace(told, node_rank=1)
    assert parse_options(second.command()[3:]) == second


def test_several_nodes_without_a_meeting_point_are_refused():
    with pytest.raises(ConfigError, match=r"placement\.rendezvous.*num_nodes=1"):
        open_launcher(Placement(num_nodes=2))


def test_shared_memory_goes_when_nobody_uses_it_and_not_before(tmp_path):
    """Also when whoever noted it is gone: another one cleans up by the notes."""
    used, unused = (shared_memory.SharedMemory(create=True, size=8) for _ in range(2))
    try:
        Segments(tmp_path).note([psutil.Process()])
        unused.close()
        Segments(tmp_path).remove_unused()
        shared_memory.SharedMemory(used.name).close()
        with pytest.raises(FileNotFoundError):
            shared_memory.SharedMemory(unused.name)
    finally:
        used.close()
        used.unlink()
