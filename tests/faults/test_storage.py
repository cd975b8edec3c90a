"""Storage that misbehaves: it is waited out, or found out by a digest, and always has an end."""

from datetime import UTC, datetime, timedelta

import pytest
import torch
from s3_proxy import (
    flips_a_bit,
    flips_an_uploaded_bit,
    loses_answer,
    refuses,
    resets_download,
    resets_upload,
    says_nothing,
    shortens,
    truncates,
)
from s3_server import BUCKET, SECRET_KEY

from turbosparse.artifacts import ArtifactSpec, Store, Workspace, endpoint, place
from turbosparse.artifacts.place import Place
from turbosparse.errors import ArtifactError
from turbosparse.train.checkpoints import CheckpointStore

SPEC = ArtifactSpec("prepare", 1, {"num_tokens": 8})
CONTENT = bytes(range(256)) * 1024
SHARD = "0\\.mds"

PASSING = {
    "500": ("PUT", refuses(500, "InternalError")),
    "503-slow-down": ("PUT", refuses(503, "SlowDown")),
    "503-on-reading": ("GET", refuses(503, "SlowDown")),
    "408-request-timeout": ("PUT", refuses(400, "RequestTimeout")),
    "silence": ("PUT", says_nothing),
    "silence-on-reading": ("GET", says_nothing),
    "reset-in-the-request": ("PUT", resets_upload),
    "reset-before-the-answer": ("PUT", loses_answer),
    "reset-in-the-answer": ("GET", resets_download),
    "cut-answer": ("GET", truncates),
    "changed-upload": ("PUT", flips_an_uploaded_bit),
    "refused-digest": ("PUT", refuses(400, "BadDigest")),
    "short-answer": ("GET", shortens),
    "changed-answer": ("GET", flips_a_bit),
}
LASTING = {name: PASSING[name] for name in ("500", "503-slow-down", "silence", "reset-in-the-request")}


def write_shard(workspace: Workspace) -> dict:
    (workspace.folder / "0.mds").write_bytes(CONTENT)
    return {"num_bytes": len(CONTENT)}


def keys(swift, uri: str) -> list[str]:
    """What lies below a URI, asked past the proxy."""
    prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
    listing = swift.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"].removeprefix(prefix) for entry in listing.get("Contents", [])]


@pytest.fixture(autouse=True)
def _silence_is_noticed_soon(monkeypatch):
    config = endpoint._S3_OPTIONS["config_kwargs"] | {"connect_timeout": 1, "read_timeout": 0.5}
    monkeypatch.setitem(endpoint._S3_OPTIONS, "config_kwargs", config)


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_time_and_nothing_else(name, proxy, broken_s3):
    method, effect = PASSING[name]
    proxy.breaks(effect, method=method, path=SHARD, times=1)
    made = Store(broken_s3).produce(SPEC, write_shard)
    again = Store(broken_s3)
    assert again.find(SPEC).manifest == made.manifest
    assert (again.load(made.uri).folder() / "0.mds").read_bytes() == CONTENT
    assert again.file(made.manifest, "0.mds").read_bytes() == CONTENT
    assert proxy.num_broken == 1, "nothing was broken"


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_stays_ends_and_leaves_nothing_visible(name, proxy, swift, broken_s3):
    method, effect = LASTING[name]
    proxy.breaks(effect, method=method, path=SHARD)
    with pytest.raises(ArtifactError, match=r"storage that answers.*run again: what is whole is kept"):
        Store(broken_s3, patience_seconds=1).produce(SPEC, write_shard)
    assert proxy.num_broken > 1, "it was tried once only"
    assert keys(swift, broken_s3) == []


@pytest.mark.parametrize("effect", [truncates, resets_download], ids=["cut", "reset"])
def test_an_answer_that_always_breaks_off_is_explained(effect, proxy, broken_s3):
    made = Store(broken_s3).produce(SPEC, write_shard)
    proxy.breaks(effect, method="GET", path=SHARD)
    with pytest.raises(ArtifactError, match="storage that answers"):
        Store(broken_s3, patience_seconds=1).load(made.uri).folder()
    with pytest.raises(ArtifactError, match="storage that answers"):
        Place.open(f"{broken_s3}/{SPEC.name}/{made.manifest.attempt}", patience_seconds=1).read("0.mds")


@pytest.mark.parametrize("effect", [shortens, flips_a_bit], ids=["short", "changed"])
def test_an_answer_that_is_always_wrong_is_found_by_its_digest(effect, proxy, broken_s3):
    made = Store(broken_s3).produce(SPEC, write_shard)
    proxy.breaks(effect, method="GET", path=SHARD)
    with pytest.raises(ArtifactError, match=r"0\.mds.*(sha256|bytes)"):
        Store(broken_s3).load(made.uri).folder()
    with pytest.raises(ArtifactError, match=r"0\.mds.*(sha256|bytes)"):
        Store(broken_s3).file(made.manifest, "0.mds")


def test_a_changed_manifest_is_found_by_its_identity(proxy, broken_s3):
    made = Store(broken_s3).produce(SPEC, write_shard)

    def changes_the_configuration(exchange) -> None:
        answer = exchange.ask()
        answer.body = answer.body.replace(b'"num_tokens": 8', b'"num_tokens": 9')
        exchange.give(answer)

    proxy.breaks(changes_the_configuration, method="GET", path="manifest")
    with pytest.raises(ArtifactError, match=r"manifest\.json.*identity"):
        Store(broken_s3).load(made.uri)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed", "AccessDenied"])
def test_what_waiting_does_not_mend_ends_at_once(code, proxy, swift, broken_s3):
    proxy.breaks(refuses(403, code), method="PUT", path=SHARD)
    with pytest.raises(ArtifactError, match=code):
        Store(broken_s3).produce(SPEC, write_shard)
    assert proxy.num_broken <= 2, "it was tried again and again"
    assert keys(swift, broken_s3) == []


def test_a_clock_that_is_wrong_is_named(swift, s3, monkeypatch):
    """The server itself refuses what was signed an hour ago."""
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime",
        lambda remove_tzinfo=True: (datetime.now(UTC) - timedelta(hours=1)).replace(tzinfo=None),
    )
    with pytest.raises(ArtifactError, match=r"(?i)request.*time") as refusal:
        Store(s3).check_writable()
    assert SECRET_KEY not in str(refusal.value)


def test_credentials_that_expire_in_the_middle_can_be_replaced(proxy, broken_s3):
    """What was finished before stays, and a run with fresh credentials reuses it."""
    store = Store(broken_s3)
    store.produce(SPEC, write_shard)
    child = ArtifactSpec("convert", 1, {}, parents={"corpus": SPEC})
    proxy.breaks(refuses(400, "ExpiredToken"), method="PUT", times=1)
    with pytest.raises(ArtifactError, match="ExpiredToken"):
        store.produce(child, write_shard)
    assert store.find(child) is None
    assert store.produce(SPEC, lambda workspace: pytest.fail("built twice")).reused
    assert not store.produce(child, write_shard).reused


def pieces() -> list[bytes]:
    return [CONTENT[:1024] * 1024] * 12


def uploads(swift, name: str) -> list[str]:
    listing = swift.client().list_multipart_uploads(Bucket=BUCKET)
    return [upload["Key"] for upload in listing.get("Uploads", []) if name in upload["Key"]]


@pytest.fixture
def _small_parts(monkeypatch):
    monkeypatch.setattr(place, "PART_BYTES", 5 * 1024**2)


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("effect", [refuses(500, "InternalError"), loses_answer, says_nothing])
def test_an_upload_whose_completion_fails_once_is_completed(effect, proxy, broken_s3):
    proxy.breaks(effect, method="POST", path="uploadId", times=1)
    there = Place.open(broken_s3)
    there.write("rank-0", pieces)
    assert proxy.num_broken == 1
    assert there.read("rank-0") == b"".join(pieces())


@pytest.mark.usefixtures("_small_parts")
def test_an_upload_that_never_completes_is_never_visible_and_its_parts_can_be_deleted(
    proxy, swift, broken_s3
):
    proxy.breaks(refuses(500, "InternalError"), method="POST", path="uploadId")
    there = Place.open(broken_s3, patience_seconds=1)
    with pytest.raises(ArtifactError, match="storage that answers"):
        there.write("rank-0", pieces)
    assert not there.exists("rank-0")
    name = broken_s3.rpartition("/")[2]
    assert uploads(swift, name), "no part was uploaded"
    there.abort_uploads()
    assert not uploads(swift, name)


def tensors(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"model.w": torch.randn(300, 1000, generator=generator), "step": torch.tensor(step)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSING)
def test_a_checkpoint_survives_faults_that_pass(name, proxy, broken_s3):
    method, effect = PASSING[name]
    store = CheckpointStore(broken_s3, "abc")
    proxy.breaks(effect, method=method, path="rank-00000", times=1)
    store.save(1, tensors(1), {"seen": 1}, {"config.json": b"{}"})
    found = CheckpointStore(broken_s3, "abc")
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
    found.load(found.latest(), into)
    assert proxy.num_broken == 1
    assert all(torch.equal(into[name], tensor) for name, tensor in tensors(1).items())


@pytest.mark.slow
def test_a_shard_that_was_changed_on_the_way_is_never_trained_on(proxy, broken_s3, make_corpus):
    """streaming itself compares a shard once: a wrong one would stay in the cache and be taken for right."""
    from turbosparse.config import DataConfig  # noqa: PLC0415
    from turbosparse.data.stream import open_mixture  # noqa: PLC0415

    config = DataConfig(
        corpora="local",
        mixture={"wanjuan-cc": 100},
        num_tokens=64 * 32,
        sequence_length=32,
        vocab_size=300,
        num_held_back_documents=1,
        near_duplicates=False,
    )
    texts = {"wanjuan-cc": [f"The fox number {number} sees the owl at noon. " * 8 for number in range(60)]}
    folder = make_corpus(config, texts, root=broken_s3).folder()
    proxy.breaks(flips_a_bit, method="GET", path=r"shard\.00000\.mds", times=2)
    dataset = open_mixture(folder, f"{broken_s3}/tokens", 1)
    with pytest.raises(ArtifactError, match=r"shard\.00000\.mds.*xxh64"):
        dataset[0]
    read = [dataset[number]["input_ids"] for number in range(len(dataset))]
    assert proxy.num_broken == 2
    expected = open_mixture(folder, f"{broken_s3}/tokens", 1)
    assert all(torch.equal(one, expected[number]["input_ids"]) for number, one in enumerate(read))
