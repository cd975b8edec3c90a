"""The corpus on workers of every kind, through the command line: the same identities and bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from turbosparse.artifacts import Store

TURBOSPARSE = str(Path(sys.executable).with_name("turbosparse"))


def prepare(root: Path, *options: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    settings = ("--set", "data.num_tokens=40000", "--set", "data.vocab_size=512")
    words = [
        TURBOSPARSE,
        "run",
        "prepare",
        "--preset",
        "tiny",
        "--root",
        str(root),
        "--json",
        *settings,
        *options,
    ]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])["stages"]["prepare"]


def digests(root: Path) -> dict[str, str]:
    """Digests of every committed file by artifact; the index names attempts, the plot is no data."""
    return {
        f"{manifest.name}/{name}": record.sha256
        for manifest in Store(str(root)).manifests()
        for name, record in manifest.files.items()
        if (manifest.kind, name) != ("prepare", "index.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["threads", "processes", "dask"])
def test_workers_of_every_kind_make_the_same_corpus(workers, tmp_path, tmp_path_factory):
    alone = tmp_path_factory.getbasetemp() / "alone"
    expected = prepare(alone)
    made = prepare(tmp_path, "--num-workers", "2", "--workers", workers)
    assert not made["reused"]
    assert made["uri"].rsplit("/", 1)[-1] == expected["uri"].rsplit("/", 1)[-1]
    assert digests(tmp_path) == digests(alone)
    left = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info)]
    assert not left
