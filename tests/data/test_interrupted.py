"""A build that is killed again and again ends with the bytes of one that was not, and leaves nothing."""

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from turbosparse.artifacts import ArtifactSpec, Store

BUILD = """
import sys
from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.config import DataConfig
from turbosparse.data.corpora import open_corpora
from turbosparse.data.corpus import CorpusInputs, build_corpus
from turbosparse.progress import ignore_progress
from turbosparse.workers import Processes, map_inline

if __name__ == "__main__":
    folder, root, workers = sys.argv[1:]
    config = DataConfig(
        mixture={"wanjuan-cc": 100},
        num_tokens=1_000_000,
        sequence_length=64,
        vocab_size=400,
        group_bytes=200_000,
    )
    store = Store(root)
    map_jobs = Processes(2) if workers == "2" else map_inline
    inputs = CorpusInputs(open_corpora("folder", folder))
    store.produce(
        ArtifactSpec("prepare", 1, config.model_dump(mode="json")),
        lambda workspace: build_corpus(config, inputs, store, workspace, map_jobs, ignore_progress),
    )
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    words = random.Random(3)
    for name in ("web_a", "web_b"):
        with (folder / f"{name}.jsonl").open("w") as file:
            for _ in range(5_000):
                text = " ".join(f"word{words.randrange(3_000)}" for _ in range(100))
                file.write(json.dumps({"text": text}) + "\n")
    return folder


def start(texts: Path, root: Path, workers: int) -> subprocess.Popen:
    script = root.parent / "build.py"
    script.write_text(BUILD)
    return subprocess.Popen([sys.executable, str(script), str(texts), str(root), str(workers)])


def digests(root: Path) -> dict[str, str]:
    """Digests of every committed file by artifact, paths of attempts apart."""
    found = {}
    for manifest in Store(str(root)).manifests():
        for name, record in manifest.files.items():
            if (manifest.kind, name) != ("prepare", "index.json"):
                found[f"{manifest.name}/{name}"] = record.sha256
    return found


def wait_for_groups(root: Path, kind: str, number: int, process: subprocess.Popen) -> None:
    while len(list(root.glob(f"{kind}/*/manifest.json"))) < number and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.faults
def test_a_killed_build_ends_as_an_undisturbed_one(texts, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert start(texts, tmp_path / "one" / "root", workers=1).wait(timeout=300) == 0
    root, moments = tmp_path / "two" / "root", random.Random(7)
    made_before: dict[str, str] = {}
    for kind, number in (("documents", 3), ("tokens", 2), ("tokens", 7)):
        process = start(texts, root, workers=2)
        wait_for_groups(root, kind, number, process)
        time.sleep(moments.uniform(0, 0.05))
        assert process.poll() is None, "the build ended before it could be killed"
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, "workers outlive the build"
        made = {found.name: found.attempt for found in Store(str(root)).manifests()}
        assert made_before.items() <= made.items(), "a finished group was made again"
        made_before = made
    assert made_before, "every kill came before anything was done"
    assert start(texts, root, workers=2).wait(timeout=300) == 0
    assert digests(root) == digests(tmp_path / "one" / "root")
    Store(str(root)).remove_unfinished()
    left = [path for path in root.rglob("attempt-*") if not (path.parent / "manifest.json").exists()]
    assert not left


def test_digests_notice_a_difference(tmp_path):
    """The comparison above would fail if one file differed."""
    for name, content in (("a", b"1"), ("b", b"2")):
        store = Store(str(tmp_path / name))

        def build(workspace, content=content):
            (workspace.folder / "file").write_bytes(content)
            return {}

        store.produce(ArtifactSpec("tokens", 1, {}), build)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert first.keys() == second.keys()
    assert first != second
    assert hashlib.sha256(b"1").hexdigest() in first.values()
