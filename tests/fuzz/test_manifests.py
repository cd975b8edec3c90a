"""Damaged manifests: the store names them, whatever it is asked for."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from mutations import JSON, fuzzed, mutated_bytes, mutated_trees, success_or_refusal

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.promotion import Champions, champions_artifacts
from turbosparse.promotion.lease import check_free, take_lease
from turbosparse.train.checkpoints import CheckpointStore

CORPUS = ArtifactSpec("prepare", 1, {"num_tokens": 8}, inputs={"corpora": "abc"})
MODEL = ArtifactSpec("pretrain", 1, {"num_steps": 3}, parents={"corpus": CORPUS})


def write(workspace: Workspace) -> dict:
    (workspace.folder / "shards").mkdir()
    (workspace.folder / "shards" / "0.mds").write_text("tokens")
    return {"loss": 1.5}


def write_over_a_group(workspace: Workspace) -> dict:
    workspace.components.append(CORPUS.name)
    return write(workspace)


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Iterator[Path]:
    """The root of a store with a corpus and a model of it."""
    store = Store(str(tmp_path_factory.mktemp("manifests") / "root"))
    store.produce(CORPUS, write)
    store.produce(MODEL, write_over_a_group)
    return store.local_root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    CheckpointStore(str(folder), "abc").save(1, {"w": torch.ones(3, 4)}, {"seen": 1}, {"config.json": b"{}"})
    return folder


def questions(store: Store) -> list[Callable[[], object]]:
    """All that a store can be asked."""
    return [
        lambda: store.find(MODEL),
        lambda: store.load(MODEL.name).folder(),
        lambda: store.file(store.load(MODEL.name).manifest, "shards/0.mds"),
        lambda: list(store.lineage(store.load(MODEL.name).manifest)),
        store.manifests,
        lambda: store.remove_unfinished(with_state=True),
    ]


def ask_everything(root: Path, name: str, content: bytes) -> None:
    """Asks a copy of the store, the manifest of one artifact replaced."""
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    try:
        (copy / name / "manifest.json").write_bytes(content)
        for question in questions(Store(str(copy))):
            with success_or_refusal():
                question()
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("spec", [CORPUS, MODEL], ids=lambda spec: spec.kind)
@fuzzed(st.data())
def test_a_manifest_of_other_values(committed, spec, data):
    tree = json.loads((committed / spec.name / "manifest.json").read_bytes())
    changed = data.draw(mutated_trees(tree) | JSON)
    ask_everything(committed, spec.name, json.dumps(changed).encode())


@fuzzed(st.data())
def test_a_manifest_of_other_bytes(committed, data):
    content = (committed / MODEL.name / "manifest.json").read_bytes()
    ask_everything(committed, MODEL.name, data.draw(mutated_bytes(content)))


def test_artifacts_that_descend_from_each_other(committed):
    """No digest can make this come true; a manifest that was written by hand can claim it."""
    tree = json.loads((committed / CORPUS.name / "manifest.json").read_bytes())
    ask_everything(committed, CORPUS.name, json.dumps(tree | {"parents": {"model": MODEL.name}}).encode())
    components = tree | {"components": [CORPUS.name]}
    ask_everything(committed, CORPUS.name, json.dumps(components).encode())


def load_latest(folder: Path) -> None:
    store = CheckpointStore(str(folder), "abc", patience_seconds=0)
    found = store.latest()
    if found is not None:
        store.load(found, {"w": torch.zeros(3, 4)})
        found.file("config.json")


@fuzzed(st.data())
def test_a_checkpoint_of_other_values(checkpoint, data):
    path = checkpoint / "step-00000001" / "checkpoint.json"
    original = path.read_bytes()
    path.write_text(json.dumps(data.draw(mutated_trees(json.loads(original)))))
    try:
        with success_or_refusal():
            load_latest(checkpoint)
    finally:
        path.write_bytes(original)


@fuzzed(st.data())
def test_a_checkpoint_of_other_bytes(checkpoint, data):
    """Of the manifest, and of the tensors that it vouches for."""
    for path in sorted(checkpoint.rglob("*.*"), key=lambda path: path.suffix):
        original = path.read_bytes()
        path.write_bytes(data.draw(mutated_bytes(original)))
        try:
            with success_or_refusal():
                load_latest(checkpoint)
        finally:
            path.write_bytes(original)


@fuzzed(st.data())
def test_a_promotion_of_other_values(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("champions")
    Champions(str(root)).promote(f"export/{'0' * 16}", "named", after=0)
    (path,) = (root / ".champion").iterdir()
    content = path.read_bytes()
    changed = mutated_trees(json.loads(content)).map(lambda tree: json.dumps(tree).encode())
    path.write_bytes(data.draw(changed | mutated_bytes(content)))
    for ask in (Champions(str(root)).current, lambda: champions_artifacts(str(root))):
        with success_or_refusal():
            ask()


@fuzzed(st.data())
def test_a_lease_of_other_values(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("leases")
    take_lease(str(root), "another run", 60.0)
    (path,) = (root / ".lease").iterdir()
    content = path.read_bytes()
    changed = mutated_trees(json.loads(content)).map(lambda tree: json.dumps(tree).encode())
    path.write_bytes(data.draw(changed | mutated_bytes(content)))
    with success_or_refusal():
        check_free(str(root))
    with success_or_refusal():
        take_lease(str(root), "this run", 60.0)
