"""Training on a machine that has nothing but a URI: what it reads is fetched, its digests checked."""

import shutil
from pathlib import Path

import pytest

from turbosparse.artifacts import ArtifactSpec, Store, fetch_origin, origin_of
from turbosparse.errors import ArtifactError


@pytest.fixture
def stored(s3, mistral_folder) -> tuple[Store, Path]:
    """A store on S3 with a model in it, and where this machine has fetched that."""

    def build(workspace) -> dict:
        shutil.copytree(mistral_folder, workspace.folder / "model")
        return {}

    store = Store(s3)
    return store, store.produce(ArtifactSpec("convert", 1, {}), build).folder() / "model"


def test_another_machine_trains_from_the_origin(stored, train, job):
    store, fetched = stored
    origin = origin_of(store, fetched)
    assert origin.startswith("s3://") and origin.endswith("/model")
    here, there = job("here"), job("there", model_folder=origin)
    assert train(there) == train(here)


def test_a_path_of_this_machine_stays_one(stored, tmp_path):
    store, _ = stored
    assert origin_of(store, tmp_path) == str(tmp_path)
    assert fetch_origin(str(tmp_path)) == tmp_path


def test_what_is_gone_is_named(stored):
    store, _ = stored
    with pytest.raises(ArtifactError, match="of a committed artifact"):
        fetch_origin(f"{store.root}/convert/{'0' * 16}/model")
