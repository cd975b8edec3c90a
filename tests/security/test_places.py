"""Places and names from outside: none leads out of where it belongs, none carries credentials."""

import hashlib
import json
import os
import tempfile

import pytest
import yaml

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.files import temporary_home
from turbosparse.artifacts.opening import open_artifact
from turbosparse.config import JobSetConfig, Placement, read_overrides, validate
from turbosparse.config.uri import ALLOWED_VARIABLE, check_uri
from turbosparse.data.folder_corpora import FolderCorpora
from turbosparse.data.hub_corpora import _checked_url
from turbosparse.data.instruction_rows import open_instructions_rows
from turbosparse.data.reading import read_texts
from turbosparse.data.shard_index import read_shards
from turbosparse.data.sources import HubFiles
from turbosparse.errors import ArtifactError, ConfigError, DataError, ModelError, TurboSparseError
from turbosparse.export.upload import check_destination
from turbosparse.model.shards import find_tensors

SPEC = ArtifactSpec("convert", 1, {"a": 1})
SHARD = {
    "format": "mds",
    "compression": None,
    "column_encodings": ["ndarray:uint16:64"],
    "raw_data": {"basename": "ab/attempt-x/shards/shard.00000.mds"},
}


@pytest.fixture
def artifact(tmp_path):
    """A committed artifact with one file."""

    def build(workspace):
        (workspace.folder / "model").mkdir()
        (workspace.folder / "model" / "weights").write_text("weights")
        return {}

    return Store(str(tmp_path / "runs")).produce(SPEC, build)


def change_manifest(artifact, **changes):
    path = artifact.store.local_root / artifact.manifest.name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["../../../outside", "/etc/passwd", "model/../../../../outside", "..", "", "a\0b", "a\nb"]
)
def test_a_manifest_names_no_file_outside_of_its_artifact(artifact, tmp_path, name):
    (tmp_path / "outside").write_text("secret")
    record = {"size_bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    change_manifest(artifact, files={name: record})
    with pytest.raises(ArtifactError, match="a manifest"):
        Store(artifact.store.root).load(artifact.uri)


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": "../../other"},
        {"attempt": "attempt-/../.."},
        {"kind": "../convert"},
        {"parents": {"model": "../../etc/0123456789abcdef"}},
        {"components": ["tokens/../../x"]},
    ],
)
def test_a_manifest_leads_nowhere_else(artifact, changes):
    change_manifest(artifact, **changes)
    with pytest.raises(ArtifactError):
        Store(artifact.store.root).load(artifact.uri)


@pytest.mark.parametrize("linked", ["model/weights", "model"])
def test_a_link_in_an_artifact_is_not_followed_out_of_it(artifact, tmp_path, linked):
    """Even where the digest is right: who may write to the store may not read this machine."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "weights").write_text("weights")
    inside = artifact.folder() / linked
    inside.rename(tmp_path / "moved")
    inside.symlink_to(secret if linked == "model" else secret / "weights")
    with pytest.raises(ArtifactError, match="a link out of its folder"):
        Store(artifact.store.root).load(artifact.uri).folder()


def test_a_stage_commits_no_links(tmp_path):
    def build(workspace):
        (workspace.folder / "link").symlink_to("/etc/hostname")
        return {}

    with pytest.raises(AssertionError, match="links"):
        Store(str(tmp_path)).produce(SPEC, build)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("trap", ["a link", "writable by all", "somebody else's"])
def test_a_temporary_folder_that_others_prepared_is_not_used(trap, tmp_path, monkeypatch):
    """In /tmp anybody may make the folder first, and change files after their digests were checked."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = temporary_home("turbosparse")
    assert folder.stat().st_mode & 0o777 == 0o700
    if trap == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "writable by all":
        folder.chmod(0o777)
    elif os.getuid() == 0:
        os.chown(folder, 65_534, 65_534)
    else:
        pytest.skip("only root can give a folder away")
    with pytest.raises(ArtifactError, match="temporary files"):
        temporary_home("turbosparse")


@pytest.mark.parametrize("uri", ["runs/convert/..", "runs/../..", "runs/convert/../../etc"])
def test_a_command_opens_only_artifacts(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TurboSparseError):
        open_artifact(uri)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", ".."])
def test_an_index_of_weights_names_files_beside_it(tmp_path, name):
    index = {"metadata": {}, "weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError):
        find_tensors(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"raw_data": {"basename": "../../outside.mds"}},
        {"raw_data": {"basename": "/etc/passwd"}},
        {"column_encodings": ["pkl"]},
        {"column_encodings": ["ndarray:uint16:64", "pkl"]},
        {"format": "json"},
        {"compression": "zstd"},
        {"raw_data": None},
        {"column_encodings": None},
    ],
)
def test_an_index_of_shards_is_no_way_to_files_or_code(tmp_path, change):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"version": 2, "shards": [SHARD]}))
    assert read_shards(index) == [SHARD]
    index.write_text(json.dumps({"version": 2, "shards": [SHARD, SHARD | change]}))
    with pytest.raises(DataError, match="an index of MDS shards"):
        read_shards(index)


@pytest.mark.parametrize(
    "uri",
    [
        "reference://somewhere",
        "zip://inside::https://host/a.zip",
        "simplecache::s3://bucket/x",
        "http://169.254.169.254/latest/meta-data",
        "ssh://host/file",
        "github://owner:repo@/file",
        "s3://bucket/../other",
        "s3://key:secret-secret@bucket/runs",
        "https://host/file?X-Amz-Signature=0123456789",
    ],
)
def test_places_that_are_not_to_be_opened(uri):
    for field in ("root", "corpora", "instructions", "source", "evaluation_data", "tokenizer"):
        with pytest.raises(ConfigError, match=rf"^{field}: "):
            validate(Placement, {field: uri}, "the test")
    with pytest.raises(TurboSparseError):
        Store(uri)
    with pytest.raises(TurboSparseError):
        list(read_texts(uri, "text", 1_000))
    with pytest.raises(ConfigError):
        open_instructions_rows("folder", uri)


def test_places_that_an_operator_allows(monkeypatch, tmp_path):
    monkeypatch.setenv(ALLOWED_VARIABLE, f"s3://ours/runs {tmp_path}/data http://127.0.0.1:9")
    for place in ("s3://ours/runs", "s3://ours/runs/x", f"{tmp_path}/data/a", "http://127.0.0.1:9/x"):
        assert check_uri(place) == place
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    for place in ("s3://ours/runs2", "s3://theirs", "/etc", f"{tmp_path}/data/../x", f"{tmp_path}/data/out"):
        with pytest.raises(ConfigError, match="a place below"):
            check_uri(place)


def test_a_form_refuses_credentials_before_they_are_stored():
    """Prefect's API checks parameters against the schema, and keeps them as they are."""
    properties = Placement.model_json_schema()["properties"]
    patterns = {name: found["pattern"] for name, found in properties.items() if "pattern" in found}
    import re  # noqa: PLC0415

    assert not re.search(patterns["root"], "s3://key:secret@bucket")
    for root in ("./runs", "s3://bucket/x", "hf://datasets/a/b@main/c", "/data/a@b"):
        assert re.search(patterns["root"], root)


@pytest.mark.parametrize(
    "url", ["/etc/passwd", "file:///etc/passwd", "http://data.org/x", "https://evil.org/x"]
)
def test_a_list_of_urls_leads_to_no_other_server(url):
    hub = HubFiles("owner/name", "json", ("urls.txt",), url_origins=("https://data.org",))
    assert _checked_url("https://data.org/a.jsonl", hub) == "https://data.org/a.jsonl"
    with pytest.raises(DataError, match=r"URLs of https://data\.org"):
        _checked_url(url, hub)


@pytest.mark.parametrize(
    "uri", ["hf://../x", "hf://a/..", "hf://a/b/c", "hf://a", "hf://-a/b", "hf://a/b;rm", "hf://a/b c"]
)
def test_a_repository_is_a_name_and_no_path(uri, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canarycanary00001")
    with pytest.raises(ConfigError, match=r"OWNER/NAME|without `\.\.`"):
        check_destination(uri)


@pytest.mark.parametrize(
    "settings",
    [{"namespace": "../kube-system"}, {"secrets": ["a/b"]}, {"service_account": "a b"}, {"queue": "$(x)"}],
)
def test_names_that_go_into_the_clusters_urls_are_names(settings):
    with pytest.raises(ConfigError):
        validate(JobSetConfig, {"namespace": "a", "image": "b", **settings}, "the test")


PAYLOAD = "!!python/object/apply:os.system ['touch {}']"


def test_yaml_makes_no_objects(tmp_path):
    """In every file and option of YAML that a user gives."""
    proof = tmp_path / "executed"
    payload = PAYLOAD.format(proof)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(payload)
    config = tmp_path / "config.yaml"
    config.write_text(f"pretrain: {payload}")
    with pytest.raises(ConfigError):
        read_overrides(str(config), [])
    with pytest.raises(ConfigError):
        read_overrides(None, [f"pretrain.num_steps={payload}"])
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "corpora" / "sources.yaml").write_text(f"a.jsonl: {payload}")
    with pytest.raises(DataError):
        FolderCorpora(str(tmp_path / "corpora")).files("fineweb")
    assert not proof.exists()


def test_a_corpora_folder_is_not_left_by_its_mapping(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"text": "a secret"}')
    folder = tmp_path / "corpora"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}')
    (folder / "sources.yaml").write_text("../secret.jsonl: fineweb\na.jsonl: fineweb\n")
    with pytest.raises(DataError):
        FolderCorpora(str(folder)).files("fineweb")


def test_an_absolute_path_is_no_identity(tmp_path):
    with pytest.raises(ArtifactError):
        Store(str(tmp_path)).load(os.fspath("/etc/passwd"))
