"""The store's promises on a real object store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from s3_server import BUCKET, SECRET_KEY

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.artifacts.endpoint import ENDPOINT_VARIABLES, open_filesystem, share_endpoint
from turbosparse.artifacts.place import Place
from turbosparse.errors import ArtifactError, ConfigError

SPEC = ArtifactSpec("prepare", 1, {"num_tokens": 8})


def write_shard(workspace: Workspace, text: str = "tokens") -> dict:
    (workspace.folder / "shards").mkdir()
    (workspace.folder / "shards" / "0.mds").write_text(text)
    (workspace.folder / "index.json").write_text("{}")
    return {"num_tokens": len(text)}


def keys(swift, uri: str) -> list[str]:
    """What lies below a URI, as the server lists it."""
    prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
    listing = swift.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return sorted(entry["Key"].removeprefix(prefix) for entry in listing.get("Contents", []))


def test_what_one_machine_makes_another_reuses(swift, s3):
    made = Store(s3).produce(SPEC, write_shard)
    assert made.uri == f"{s3}/{SPEC.name}"
    attempt = f"{SPEC.name}/{made.manifest.attempt}"
    assert keys(swift, s3) == [
        f"{attempt}/index.json",
        f"{attempt}/shards/0.mds",
        f"{SPEC.name}/manifest.json",
    ]
    again = Store(s3).produce(SPEC, lambda workspace: pytest.fail("built twice"))
    assert again.reused
    assert (again.folder() / "shards" / "0.mds").read_text() == "tokens"
    assert Store(s3).file(again.manifest, "shards/0.mds").read_text() == "tokens"
    assert [manifest.name for manifest in Store(s3).manifests()] == [SPEC.name]


def test_a_commit_by_another_machine_wins(swift, s3):
    def build_while_another_commits(workspace: Workspace) -> dict:
        Store(s3).produce(SPEC, lambda other: write_shard(other, "theirs"))
        return write_shard(workspace, "ours")

    artifact = Store(s3).produce(SPEC, build_while_another_commits)
    assert artifact.reused
    assert (artifact.folder() / "shards" / "0.mds").read_text() == "theirs"
    assert {key.split("/")[2] for key in keys(swift, s3)} == {artifact.manifest.attempt, "manifest.json"}


def test_machines_that_commit_at_the_same_moment_do_not_mix(s3):
    """Swift looks and writes in two steps, so both may believe it: each has a whole artifact then."""
    both_have_built = threading.Barrier(2)

    def make(text: str):
        def build(workspace: Workspace) -> dict:
            metrics = write_shard(workspace, text)
            both_have_built.wait(60)
            return metrics

        return Store(s3).produce(SPEC, build)

    with ThreadPoolExecutor(2) as machines:
        made = list(machines.map(make, ("ours", "theirs")))
    artifact = Store(s3).load(made[0].uri)
    assert artifact.manifest in [one.manifest for one in made]
    text = (artifact.folder() / "shards" / "0.mds").read_text()
    assert artifact.manifest.metrics["num_tokens"] == len(text)


def test_a_commit_whose_answer_was_lost_is_ours_when_it_is_repeated(s3):
    place = Place.open(s3)
    assert place.create("manifest.json", b"ours")
    assert place.create("manifest.json", b"ours")
    assert not place.create("manifest.json", b"theirs")
    assert place.read("manifest.json") == b"ours"


def test_a_damaged_file_is_named(swift, s3):
    made = Store(s3).produce(SPEC, write_shard)
    key = f"{s3.removeprefix(f's3://{BUCKET}/')}/{SPEC.name}/{made.manifest.attempt}/shards/0.mds"
    swift.client().put_object(Bucket=BUCKET, Key=key, Body=b"tokenz")
    with pytest.raises(ArtifactError, match=r"shards/0\.mds.*sha256"):
        Store(s3).load(made.uri).folder()
    swift.client().put_object(Bucket=BUCKET, Key=key, Body=b"tok")
    with pytest.raises(ArtifactError, match=r"shards/0\.mds.*3 bytes.*6 bytes"):
        Store(s3).find(SPEC)


def test_state_lies_at_the_root_until_the_commit(swift, s3):
    def checkpoint_then_fail(workspace: Workspace) -> dict:
        assert workspace.state_uri == f"{s3}/{SPEC.name}/state"
        Place.open(workspace.state_uri).write_bytes("checkpoints/step-10", b"weights")
        write_shard(workspace)
        raise RuntimeError("preempted")

    def resume(workspace: Workspace) -> dict:
        assert Place.open(workspace.state_uri).read("checkpoints/step-10") == b"weights"
        return write_shard(workspace)

    with pytest.raises(RuntimeError, match="preempted"):
        Store(s3).produce(SPEC, checkpoint_then_fail)
    assert keys(swift, s3) == [f"{SPEC.name}/state/checkpoints/step-10"]
    Store(s3).produce(SPEC, resume)
    assert not any("/state/" in key for key in keys(swift, s3))


def test_collecting_garbage_spares_what_another_machine_may_be_writing(swift, s3, monkeypatch):
    place = Place.open(f"{s3}/{SPEC.name}")
    place.write_bytes("state/checkpoints/step-10", b"weights")
    place.write_bytes("attempt-elsewhere/shards/0.mds", b"half")
    assert Store(s3).remove_unfinished() == []
    # Negative: a store rounds times of writing up to the next second, so an object may come from the future.
    monkeypatch.setattr("turbosparse.artifacts.store.RECENT", timedelta(minutes=-1))
    assert Store(s3).remove_unfinished() == [f"{SPEC.name}/attempt-elsewhere"], "training may resume"
    assert Store(s3).remove_unfinished(with_state=True) == [f"{SPEC.name}/state"]
    assert keys(swift, s3) == []


def test_a_root_that_can_be_written_keeps_nothing_of_the_check(swift, s3):
    Store(s3).check_writable()
    assert keys(swift, s3) == []


def _refusal(root: str) -> str:
    with pytest.raises(ArtifactError, match="can be written") as refusal:
        Store(root).check_writable()
    return str(refusal.value)


def test_a_wrong_secret_is_refused_and_not_told(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    message = _refusal(s3)
    assert "another-secret" not in message
    assert SECRET_KEY not in message


def test_a_bucket_that_does_not_exist_is_refused(s3):
    assert "nowhere" in _refusal("s3://nowhere/runs")


def test_a_store_that_does_not_answer_is_refused_in_seconds(s3, monkeypatch):
    monkeypatch.setattr("turbosparse.artifacts.store.SECONDS_TO_ANSWER", 0.5)
    for name in ENDPOINT_VARIABLES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "127.0.0.1:9" in _refusal(s3)


def test_one_endpoint_variable_is_enough_and_two_must_agree(monkeypatch):
    one, other = ENDPOINT_VARIABLES
    monkeypatch.setenv(one, "http://storage:9000")
    monkeypatch.delenv(other, raising=False)
    share_endpoint()
    monkeypatch.setenv(other, "http://elsewhere:9000")
    with pytest.raises(ConfigError, match=r"storage:9000.*elsewhere:9000.*unset"):
        open_filesystem("s3://bucket/runs")
