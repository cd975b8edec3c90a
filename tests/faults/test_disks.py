"""Disks that are full or read-only: named, nothing half-made, and all goes on once there is room."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from commands import Bench

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.errors import ArtifactError
from turbosparse.scratch import scratch_folder
from turbosparse.train.checkpoints import CheckpointStore

SPEC = ArtifactSpec("tokens", 1, {})
MIB = 1024**2


def write_two_mib(workspace: Workspace) -> dict:
    for name in ("0.mds", "1.mds"):
        (workspace.folder / name).write_bytes(bytes(MIB))
    return {}


def test_a_full_disk_is_named_and_what_was_whole_stays(make_disk):
    disk = make_disk(3)
    store = Store(str(disk.folder))
    first = store.produce(SPEC, write_two_mib)
    other = ArtifactSpec("tokens", 1, {"group": 2})
    with pytest.raises(ArtifactError, match=r"No space left.*free space"):
        store.produce(other, write_two_mib)
    assert [path.name for path in disk.folder.rglob("attempt-*")] == [first.manifest.attempt]
    disk.remount("size=8m")
    assert store.produce(other, write_two_mib).folder().is_dir()
    assert store.load(first.uri).folder().is_dir()


def test_a_read_only_disk_is_named(make_disk):
    disk = make_disk(8)
    disk.remount("ro")
    with pytest.raises(ArtifactError, match=r"can be written.*Read-only file system"):
        Store(str(disk.folder)).check_writable()


def test_a_disk_that_becomes_read_only_is_named(tmp_path):
    """As a file system does that has found itself damaged; no test can make one do so."""

    def build(workspace: Workspace) -> dict:
        write_two_mib(workspace)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = Store(str(tmp_path))
    with pytest.raises(ArtifactError, match=r"Read-only file system.*run again"):
        store.produce(SPEC, build)
    assert store.find(SPEC) is None
    artifact = store.produce(SPEC, write_two_mib)
    assert [path.name for path in tmp_path.rglob("attempt-*")] == [artifact.manifest.attempt]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(make_disk):
    disk = make_disk(3)
    store = CheckpointStore(str(disk.folder), "abc", patience_seconds=1)
    weights = {"w": torch.ones(MIB // 2)}
    store.save(1, weights, {}, {})
    with pytest.raises(ArtifactError, match=r"No space left.*run again"):
        store.save(2, weights, {}, {})
    assert [path.name for path in disk.folder.iterdir()] == ["step-00000001"]
    into = {"w": torch.zeros(MIB // 2)}
    store.load(store.latest(), into)
    assert torch.equal(into["w"], weights["w"])
    disk.remount("size=16m")
    store.save(2, weights, {}, {})
    assert store.latest().step == 2


@pytest.mark.slow
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_commands_refuse_a_disk_with_status_2(is_full, make_disk, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - seconds

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=1_000)).save_pretrained(tmp_path / "model")
    disk, bench = make_disk(1), Bench(tmp_path / "bench")
    (disk.folder / "filler").write_bytes(bytes(MIB - 64 * 1024 if is_full else 0))
    if not is_full:
        disk.remount("ro")
    for command in ("convert", "export"):
        bench.start(command, str(tmp_path / "model"), str(disk.folder / "made"))
        assert bench.finish() == 2, bench.said()
        assert "Traceback" not in bench.said()
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]


def test_a_folder_that_a_killed_process_left_goes_with_the_next_of_its_kind(tmp_path):
    """And one that is in use does not."""
    script = """
import os, signal, sys
from pathlib import Path
from turbosparse.scratch import scratch_folder

with scratch_folder("kind-", Path(sys.argv[1])) as folder:
    (folder / "note").write_text("left")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    notes: list[str] = []
    with scratch_folder("kind-", tmp_path) as ours, scratch_folder("other-", tmp_path):
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        assert len(list(tmp_path.iterdir())) == 3
        with scratch_folder("kind-", tmp_path, lambda folder: notes.append((folder / "note").read_text())):
            assert len(list(tmp_path.iterdir())) == 3
        assert ours.is_dir()
    assert notes == ["left"]
    assert not list(tmp_path.iterdir())
