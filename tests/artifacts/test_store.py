"""The store's promises: made once, committed last, never half-visible, never silently wrong."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.errors import ArtifactError


def spec(**changes) -> ArtifactSpec:
    content = {"kind": "prepare", "version": 1, "config": {"num_tokens": 8}, "inputs": {"corpora": "abc"}}
    return ArtifactSpec(**{**content, **changes})


def write_shard(workspace: Workspace, text: str = "tokens") -> dict:
    (workspace.folder / "shards").mkdir()
    (workspace.folder / "shards" / "0.mds").write_text(text)
    return {"num_tokens": len(text)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


def test_the_second_request_is_served_from_the_store(store):
    made = store.produce(spec(), write_shard)
    again = store.produce(spec(), lambda workspace: pytest.fail("built twice"))
    assert not made.reused
    assert again.reused
    assert again.manifest == made.manifest
    assert (again.folder() / "shards" / "0.mds").read_text() == "tokens"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"config": {"num_tokens": 9}},
        {"inputs": {"corpora": "abd"}},
        {"parents": {"base": ArtifactSpec("base", 1, {})}},
        {"kind": "convert"},
    ],
)
def test_everything_that_decides_the_content_changes_the_identity(changes):
    assert spec(**changes).identity != spec().identity


def test_a_parents_change_reaches_its_descendants():
    def child(parent: ArtifactSpec) -> ArtifactSpec:
        return spec(kind="pretrain", parents={"corpus": parent})

    assert child(spec(version=2)).identity != child(spec()).identity


def test_a_failed_build_leaves_no_artifact_and_no_attempt(store, tmp_path):
    def fail(workspace: Workspace) -> dict:
        write_shard(workspace)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.produce(spec(), fail)
    assert store.find(spec()) is None
    assert not list((tmp_path / "root").rglob("attempt-*"))


def test_state_survives_a_failure_and_goes_with_the_commit(store):
    def checkpoint_then_fail(workspace: Workspace) -> dict:
        (workspace.state / "step-10").write_text("weights")
        raise RuntimeError("killed")

    def resume(workspace: Workspace) -> dict:
        assert (workspace.state / "step-10").read_text() == "weights"
        return write_shard(workspace)

    with pytest.raises(RuntimeError):
        store.produce(spec(), checkpoint_then_fail)
    artifact = store.produce(spec(), resume)
    assert not (artifact.folder().parent / "state").exists()


def test_a_flipped_byte_is_named_when_a_stage_reads(store):
    path = store.produce(spec(), write_shard).folder() / "shards" / "0.mds"
    path.write_text("tokenz")
    found = Store(store.root).find(spec())
    assert found is not None, "sizes alone are checked before a stage reads"
    with pytest.raises(ArtifactError, match=r"0\.mds.*sha256"):
        found.folder()


def test_a_missing_or_cut_file_is_named_at_once(store):
    path = store.produce(spec(), write_shard).folder() / "shards" / "0.mds"
    path.write_text("tok")
    with pytest.raises(ArtifactError, match=r"0\.mds.*3 bytes.*6 bytes"):
        Store(store.root).find(spec())
    path.unlink()
    with pytest.raises(ArtifactError, match=r"0\.mds.*missing"):
        Store(store.root).find(spec())


def test_a_manifest_that_points_outside_its_folder_is_refused(store):
    artifact = store.produce(spec(), write_shard)
    path = Path(store.local_root) / artifact.manifest.name / "manifest.json"
    content = json.loads(path.read_text())
    record = content["files"].pop("shards/0.mds")
    content["files"]["../../../secrets"] = record
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="below the artifact's own folder"):
        Store(store.root).find(spec())


def _produce_slowly(root: str, text: str) -> None:
    def build(workspace: Workspace) -> dict:
        time.sleep(0.5)
        return write_shard(workspace, text)

    Store(root).produce(spec(), build)


def test_two_writers_at_once_make_one_artifact(store):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_produce_slowly, args=(store.root, text)) for text in ("aaa", "bb")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    artifact = store.find(spec())
    assert artifact is not None
    assert artifact.manifest.metrics["num_tokens"] == artifact.manifest.files["shards/0.mds"].size_bytes
    assert len(list(Path(store.local_root).rglob("attempt-*"))) == 1


def test_a_commit_by_another_machine_wins(store, monkeypatch):
    """Another machine shares the disk, but neither our lock nor our list of stale attempts."""
    monkeypatch.setattr("turbosparse.artifacts.store.remove_stale_attempts", lambda home: None)

    def build_while_another_commits(workspace: Workspace) -> dict:
        Store(store.root)._make(spec(), lambda other: write_shard(other, "theirs"))
        return write_shard(workspace, "ours")

    artifact = store.produce(spec(), build_while_another_commits)
    assert artifact.reused
    assert (artifact.folder() / "shards" / "0.mds").read_text() == "theirs"
    assert len(list(artifact.folder().parent.glob("attempt-*"))) == 1


def test_after_sigkill_the_next_attempt_starts_clean(store):
    context = multiprocessing.get_context("fork")

    def killed(root: str) -> None:
        def build(workspace: Workspace) -> dict:
            write_shard(workspace, "half")
            os.kill(os.getpid(), signal.SIGKILL)
            return {}

        Store(root).produce(spec(), build)

    writer = context.Process(target=killed, args=(store.root,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert store.find(spec()) is None
    artifact = store.produce(spec(), write_shard)
    assert [path.name for path in artifact.folder().parent.glob("attempt-*")] == [artifact.manifest.attempt]


def test_collecting_garbage_spares_what_is_being_made(store):
    def build(workspace: Workspace) -> dict:
        write_shard(workspace)
        assert Store(store.root).remove_unfinished() == []
        return {}

    assert (store.produce(spec(), build).folder() / "shards" / "0.mds").exists()


def test_lineage_leads_back_to_the_corpora(store):
    corpus = spec()
    model = ArtifactSpec("pretrain", 1, {}, parents={"corpus": corpus})
    store.produce(corpus, write_shard)
    artifact = store.produce(model, write_shard)
    walked = [(depth, role, manifest.kind) for depth, role, manifest in store.lineage(artifact.manifest)]
    assert walked == [(0, "", "pretrain"), (1, "corpus", "prepare")]


def test_a_root_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="can be written"):
        Store(str(tmp_path / "file" / "root")).check_writable()


def test_the_same_code_serves_an_object_store():
    store = Store("memory://bucket/runs")
    made = store.produce(spec(), write_shard)
    again = store.produce(spec(), lambda workspace: pytest.fail("built twice"))
    assert again.manifest == made.manifest
    assert (
        Store("memory://bucket/runs").load(made.uri).folder() / "shards" / "0.mds"
    ).read_text() == "tokens"


def write_over(component: str):
    def build(workspace: Workspace) -> dict:
        workspace.components.append(component)
        (workspace.folder / "index.json").write_text("{}")
        return {}

    return build


def test_a_flipped_byte_in_a_component_is_named_too(store):
    group = store.produce(spec(kind="tokens"), write_shard)
    corpus = store.produce(spec(), write_over(group.manifest.name))
    assert corpus.manifest.components == (group.manifest.name,)
    (group.folder() / "shards" / "0.mds").write_text("tokenz")
    with pytest.raises(ArtifactError, match=r"shards/0\.mds"):
        Store(store.root).load(corpus.uri).folder()


@pytest.mark.parametrize("root", ["local", "memory://files"])
def test_one_file_is_fetched_without_the_others(root, tmp_path):
    store = Store(str(tmp_path / root) if root == "local" else root)
    made = store.produce(spec(kind="documents", inputs={"root": root}), write_shard)
    assert store.file(made.manifest, "shards/0.mds").read_text() == "tokens"
    damaged = made.manifest.files["shards/0.mds"].model_copy(update={"sha256": "0" * 64})
    manifest = made.manifest.model_copy(update={"files": {"shards/0.mds": damaged}})
    with pytest.raises(ArtifactError, match=r"0\.mds"):
        store.file(manifest, "shards/0.mds")


def test_a_full_disk_is_explained_and_leaves_nothing(store):
    def build(workspace: Workspace) -> dict:
        write_shard(workspace)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ArtifactError, match=r"No space left.*free space"):
        store.produce(spec(), build)
    assert not list(store.local_root.rglob("attempt-*"))
