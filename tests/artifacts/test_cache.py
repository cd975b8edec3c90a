"""Copies of remote artifacts: bounded, never taken from whoever uses them."""

import os
import subprocess
import sys
import time

import pytest

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts import cache as cache_module
from turbosparse.artifacts.cache import FOLDER_VARIABLE, LIMIT_VARIABLE, LocalCache
from turbosparse.errors import ConfigError

GIB = 1024**3
HOLDER = """
import sys
from pathlib import Path
from turbosparse.artifacts.cache import LocalCache
LocalCache(Path(sys.argv[1]), 10**9).folder("held")
print("held", flush=True)
sys.stdin.read()
"""


def fill(cache: LocalCache, name: str, num_bytes: int, age_seconds: float) -> None:
    """Leaves a folder behind as an ended process does."""
    folder = cache.folder(name)
    (folder / "data").write_bytes(bytes(num_bytes))
    cache_module._HELD.pop(folder).close()
    used_at = time.time() - age_seconds
    os.utime(folder / ".lock", (used_at, used_at))


def test_the_least_recently_used_goes_first_and_only_as_much_as_must(tmp_path):
    cache = LocalCache(tmp_path / "root", limit_bytes=350)
    for name, age in (("a/old", 300), ("a/older", 400), ("b/recent", 100)):
        fill(cache, name, 100, age)
    cache.folder("a/new", size_bytes=100)
    assert sorted(path.parent.name for path in tmp_path.rglob(".lock")) == ["new", "old", "recent"]


def test_folders_of_all_roots_share_one_limit(tmp_path):
    fill(LocalCache(tmp_path / "one", 10**9), "a", 100, 100)
    assert LocalCache(tmp_path / "two", 50).trim() == [tmp_path / "one" / "a"]


def test_what_a_living_process_uses_stays_and_goes_once_it_was_killed(tmp_path):
    cache = LocalCache(tmp_path / "root", limit_bytes=0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "root")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    held = tmp_path / "root" / "held"
    (held / "data").write_bytes(bytes(10))
    assert cache.trim() == []
    assert held.exists()
    holder.kill()
    holder.wait()
    assert cache.trim() == [held]
    assert not held.exists()


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "lots")
    with pytest.raises(ConfigError, match="positive number of GiB"):
        LocalCache.open("s3://bucket")
    monkeypatch.setenv(LIMIT_VARIABLE, "2.5")
    assert LocalCache.open("s3://bucket").limit_bytes == 2.5 * GIB
    assert LocalCache.open("s3://bucket", 1).limit_bytes == GIB


def test_a_copy_is_fetched_once_and_again_where_it_was_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    root = "memory://cached"

    def build(workspace) -> dict:
        (workspace.folder / "model").write_text("weights")
        return {}

    artifact = Store(root).produce(ArtifactSpec("base", 1, {}, {}), build)
    first = Store(root).load(artifact.uri).folder()
    assert first.is_relative_to(tmp_path / "cache")
    inode = (first / "model").stat().st_ino
    assert Store(root).load(artifact.uri).folder() == first
    assert (first / "model").stat().st_ino == inode, "the copy was there"
    (first / "model").write_text("damaged")
    assert (Store(root).load(artifact.uri).folder() / "model").read_text() == "weights"
