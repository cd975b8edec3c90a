"""Secrets planted in the environment of a whole run: nothing that it writes holds one."""

import os
import subprocess
from pathlib import Path

import pytest
from flows_command import SHORT, TURBOSPARSE

CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000001",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret-0000000000000000000001",
    "AWS_SESSION_TOKEN": "canary-aws-session-0000000001",
    "WANDB_API_KEY": "c0ffee" + "ca9a51" * 5 + "0001",
    "HF_TOKEN": "hf_canarycanarycanary0001",
    "PREFECT_API_AUTH_STRING": "admin:canary-prefect-0001",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:canary-prefect-0001",
}
MARKS = [value.rpartition(":")[2] for value in CANARIES.values()]


def run(tmp_path: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line with everything that it could write to below `tmp_path`."""
    places = {name: str(tmp_path / folder) for name, folder in PLACES.items()}
    for place in places.values():
        Path(place).mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WANDB_"))}
    return subprocess.run(
        [TURBOSPARSE, *words],
        capture_output=True,
        text=True,
        env=kept | CANARIES | places | changes,
        cwd=tmp_path,
        timeout=1500,
        check=False,
    )


PLACES = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}


def leaks(tmp_path: Path, ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Returns where a canary was found."""
    found = [mark for mark in MARKS if mark in ended.stdout + ended.stderr]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    return found + [
        f"{path.relative_to(tmp_path)}: {mark}"
        for path in files
        for content in [path.read_bytes()]
        for mark in MARKS
        if mark.encode() in content
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_pipeline_writes_no_secret(tmp_path):
    """Artifacts, manifests, Prefect's database and logs, W&B's files, caches and temporary files."""
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    tracked = ["--place", "training.wandb.project=canaries", "--place", "training.wandb.mode=offline"]
    ended = run(tmp_path, "dry-run", "--preset", "tiny", "--root", "runs", *settings, *tracked)
    assert ended.returncode == 0, ended.stderr[-3000:]
    written = {path.name for path in tmp_path.rglob("*")}
    assert {"prefect.db", "server.log", "manifest.json"} <= written, "what is searched is there"
    assert leaks(tmp_path, ended) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "prepare", "--preset", "tiny", "--root", f"s3://key:{MARKS[1]}@bucket/runs"],
        ["run", "prepare", "--preset", "tiny", "--corpora", f"https://user:{MARKS[1]}@host/x"],
        ["run", "prepare", "--preset", "tiny", "--place", f"training.wandb.api_key={MARKS[3]}"],
        ["run", "prepare", "--preset", "tiny", "--set", f"data.{MARKS[4]}=1"],
        ["export", "model", "out", "--format", "hf", "--upload", f"s3://key:{MARKS[1]}@bucket/x"],
        ["show", f"s3://key:{MARKS[1]}@bucket/convert/0123456789abcdef"],
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(tmp_path, words):
    ended = run(tmp_path, *words)
    assert ended.returncode == 2, ended.stderr
    assert "error: " in ended.stderr
    assert leaks(tmp_path, ended) == []


def test_the_search_finds_what_is_there(tmp_path):
    (tmp_path / "log").write_text(f"key {MARKS[0]}")
    nothing = subprocess.CompletedProcess([], 0, "", "")
    assert leaks(tmp_path, nothing) == [f"log: {MARKS[0]}"]
