"""Retraining through the command line: a first champion, nothing new, another one under way."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from flows_command import SHORT, TURBOSPARSE

from turbosparse.promotion import Champions
from turbosparse.promotion.lease import take_lease


def retrain(root: Path) -> subprocess.CompletedProcess[str]:
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    command = [TURBOSPARSE, "run", "retrain", "--preset", "tiny", "--root", str(root), "--json", *settings]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def stages(ended: subprocess.CompletedProcess[str]) -> dict:
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])["stages"]


@pytest.mark.long
def test_the_first_run_makes_a_champion_and_the_next_finds_nothing_new(tmp_path):
    made = stages(retrain(tmp_path))
    assert list(made)[-2:] == ["verdict", "export"]
    champions = Champions(str(tmp_path))
    first = champions.current()
    assert made["export"]["uri"].endswith(first.champion)
    assert made["verdict"]["uri"].endswith(first.verdict)
    assert (first.number, first.preset) == (1, "tiny")

    assert stages(retrain(tmp_path)) == {}
    lease = take_lease(str(tmp_path), "another flow run", seconds=3_600)
    refused = retrain(tmp_path)
    assert refused.returncode == 2
    assert "held by another flow run until" in refused.stderr
    assert "Traceback" not in refused.stderr
    lease.check()
    assert champions.history() == [first]
