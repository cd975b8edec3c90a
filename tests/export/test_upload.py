"""Uploads: whole or recognisably not there, never over anything, no token in sight."""

from types import SimpleNamespace

import fsspec
import pytest
from s3_server import BUCKET

from turbosparse.errors import ArtifactError, ConfigError
from turbosparse.export import upload
from turbosparse.export.upload import check_destination, in_order, upload_folder


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "out"
    (target / "sub").mkdir(parents=True)
    for name in (
        "config.json",
        "README.md",
        "model.safetensors.index.json",
        "model-1.safetensors",
        "sub/a.py",
    ):
        (target / name).write_text(f"content of {name}")
    return target


@pytest.fixture
def place(tmp_path):
    return f"memory://{tmp_path.name}/model"


def test_what_a_reader_looks_for_first_comes_last(folder):
    names = [path.relative_to(folder).as_posix() for path in in_order(folder)]
    assert names[-2:] == ["model.safetensors.index.json", "config.json"]
    assert sorted(names[:-2]) == ["README.md", "model-1.safetensors", "sub/a.py"]


def test_every_file_arrives(folder, place):
    check_destination(place)
    upload_folder(folder, place)
    fs, path = fsspec.core.url_to_fs(place)
    found = {name.removeprefix(f"{path}/"): fs.cat_file(name).decode() for name in fs.find(path)}
    assert found == {
        file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()
    }


def test_a_place_that_holds_something_is_refused(folder, place):
    upload_folder(folder, place)
    with pytest.raises(ArtifactError, match="empty or new place"):
        check_destination(place)


def test_an_interrupted_upload_is_removed(folder, place, monkeypatch):
    fs, path = fsspec.core.url_to_fs(place)
    put_file = type(fs).put_file

    def fail(self, local, remote, *args, **options):
        if remote.endswith("index.json"):
            raise PermissionError("secret details")
        put_file(self, local, remote, *args, **options)

    monkeypatch.setattr(type(fs), "put_file", fail)
    with pytest.raises(ArtifactError, match="PermissionError") as caught:
        upload_folder(folder, place)
    assert "secret" not in str(caught.value)
    assert fs.find(path) == []


class Hub:
    """Stands in for the hub: remembers what it is told."""

    def __init__(self, token):
        self.calls = [token]
        hubs.append(self)

    def create_repo(self, repository, **options):
        self.calls.append((repository, options))

    def upload_folder(self, **options):
        self.calls.append(options)


hubs = []


def test_the_hub_gets_one_commit_with_the_environments_token(folder, monkeypatch):
    monkeypatch.setattr(upload, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "of the environment")
    upload_folder(folder, "hf://owner/name")
    token, created, committed = hubs[-1].calls
    assert token == "of the environment"
    assert created == ("owner/name", {"private": True, "exist_ok": True})
    assert (committed["repo_id"], committed["folder_path"]) == ("owner/name", folder)


def test_a_token_from_the_environment_is_needed(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        check_destination("hf://owner/name")


@pytest.mark.parametrize("uri", ["out", "hf://name", "hf://a/b/c", "unknown://place"])
def test_a_destination_that_is_none_is_refused(uri, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "t")
    with pytest.raises(ConfigError, match="--upload"):
        check_destination(uri)


def test_a_hub_that_refuses_is_an_error_without_its_details(folder, monkeypatch):
    def refuse(token):
        def create_repo(*args, **options):
            raise OSError(f"refused {token}")

        return SimpleNamespace(create_repo=create_repo)

    monkeypatch.setattr(upload, "HfApi", refuse)
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    with pytest.raises(ArtifactError, match="OSError") as caught:
        upload_folder(folder, "hf://owner/name")
    assert "very-secret" not in str(caught.value)


def test_object_storage_gets_every_file_and_refuses_a_second_export(swift, s3, folder):
    check_destination(s3)
    upload_folder(folder, s3)
    prefix = s3.removeprefix(f"s3://{BUCKET}/") + "/"
    listing = swift.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    written = {entry["Key"].removeprefix(prefix): entry["LastModified"] for entry in listing}
    assert written.keys() == {
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    }
    assert max(written.values()) == written["config.json"]
    with pytest.raises(ArtifactError, match="empty or new place"):
        check_destination(s3)


def test_object_storage_that_refuses_the_key_is_an_error_without_it(s3, monkeypatch):
    from s3fs import S3FileSystem  # noqa: PLC0415

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ArtifactError, match="can be written") as caught:
        check_destination(s3)
    assert "not-the-secret" not in str(caught.value)
