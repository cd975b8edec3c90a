"""The whole chain through the command line, Prefect included, at the smallest scale that is still real."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from flows_command import SHORT, TURBOSPARSE
from safetensors import safe_open

from turbosparse.artifacts import Store

STAGES = ("prepare", "convert", "pretrain", "finetune", "evaluate", "export")


def command(preset: str, root: Path) -> list[str]:
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    return [TURBOSPARSE, "dry-run", "--preset", preset, "--root", str(root), "--json", *settings]


def dry_run(preset: str, root: Path) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    ended = subprocess.run(
        command(preset, root), capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "preset",
    [pytest.param("tiny", marks=pytest.mark.long), pytest.param("tiny-moe", marks=pytest.mark.slow)],
)
def test_the_chain_passes_real_artifacts_and_is_reused(preset, tmp_path):
    report = dry_run(preset, tmp_path)
    assert tuple(report["stages"]) == STAGES
    assert not any(stage["reused"] for stage in report["stages"].values())
    metrics = {name: stage["metrics"] for name, stage in report["stages"].items()}
    assert len(metrics["prepare"]["token_ratio"]) == 17
    assert sum(metrics["prepare"]["token_ratio"].values()) == pytest.approx(1)
    assert metrics["convert"]["source"] == "base"
    assert metrics["pretrain"]["last_loss"] < metrics["pretrain"]["first_loss"]
    assert 0.5 < metrics["pretrain"]["zero_activation_ratio"] < 1
    assert 0 < metrics["finetune"]["recall"] <= 1
    assert 0 < metrics["finetune"]["predicted_active_ratio"] < 1
    assert metrics["finetune"]["true_active_ratio"] == pytest.approx(
        1 - metrics["evaluate"]["zero_activation_ratio"], abs=0.1
    )
    assert metrics["evaluate"]["num_items"] == {"local_cloze": 4, "local_text": 4}
    assert metrics["export"]["reloaded_matches"] is True
    assert metrics["export"]["exact_speedup_ratio"] > 0
    again = dry_run(preset, tmp_path)
    assert all(stage["reused"] for stage in again["stages"].values())
    assert {name: stage["metrics"] for name, stage in again["stages"].items()} == metrics
    exported = Store(str(tmp_path)).load(again["stages"]["export"]["uri"])
    kinds = {manifest.kind for _, _, manifest in exported.store.lineage(exported.manifest)}
    assert kinds == {*STAGES, "base", "instructions"}
    with safe_open(exported.folder() / "model" / "model.safetensors", framework="pt") as weights:
        name = "experts.predictor.fc1" if preset == "tiny-moe" else "predictor.fc1.weight"
        shape = weights.get_slice(f"model.layers.3.mlp.{name}").get_shape()
    assert shape == ([4, 48, 192] if preset == "tiny-moe" else [64, 192]), "one per expert, one per FFN"


@pytest.mark.slow
def test_a_killed_pipeline_leaves_nothing_and_ends_with_the_same_identities(tmp_path):
    whole = dry_run("tiny", tmp_path / "whole")
    root = tmp_path / "killed"
    process = subprocess.Popen(
        command("tiny", root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not _steps_of_pretrain(root):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    descendants = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(descendants, timeout=40)
    assert not alive, [found.cmdline() for found in alive]
    assert not list(root.glob("pretrain/*/manifest.json"))

    resumed = dry_run("tiny", root)
    assert resumed["stages"]["prepare"]["reused"]
    assert resumed["stages"]["convert"]["reused"]
    assert not resumed["stages"]["pretrain"]["reused"]
    assert _identities(resumed) == _identities(whole)
    losses = [report["stages"]["pretrain"]["metrics"]["last_loss"] for report in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(list(root.glob("pretrain/*/attempt-*"))) == 1
    assert not list(root.glob("pretrain/*/state"))


def _steps_of_pretrain(root: Path) -> int:
    histories = list(root.glob("pretrain/*/state/history.jsonl"))
    return len(histories[0].read_text().splitlines()) if histories else 0


def _identities(report: dict) -> list[str]:
    return [stage["uri"].rsplit("/", 1)[-1] for stage in report["stages"].values()]
