"""Corpora whose index, mixture or shards contradict each other: verifying one says so."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import JSON, fuzzed, mutated_bytes, mutated_trees, success_or_refusal

from turbosparse.artifacts import Artifact, Store
from turbosparse.artifacts.files import record_bytes
from turbosparse.config import DataConfig
from turbosparse.data.shard_index import read_shards
from turbosparse.data.stream import open_mixture
from turbosparse.data.verify import verify_corpus


@pytest.fixture(scope="module")
def corpus(make_corpus) -> Artifact:
    config = DataConfig(
        corpora="local",
        mixture={"wanjuan-cc": 75, "github-code": 25},
        num_tokens=32 * 24,
        sequence_length=32,
        vocab_size=300,
        num_held_back_documents=1,
        near_duplicates=False,
    )
    text = "The fox number {} of {} sees the owl at noon. "
    texts = {name: [text.format(n, name) * 6 for n in range(20)] for name in config.mixture}
    return make_corpus(config, texts)


def with_file(corpus: Artifact, name: str, content: bytes) -> Store:
    """A copy of the root in which the corpus's manifest vouches for another content of a file."""
    root = corpus.store.local_root.with_name("copy")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(corpus.store.local_root, root)
    home = root / corpus.manifest.name
    (home / corpus.manifest.attempt / name).write_bytes(content)
    tree = json.loads((home / "manifest.json").read_bytes())
    tree["files"][name] = record_bytes(content).model_dump()
    (home / "manifest.json").write_text(json.dumps(tree))
    return Store(str(root))


def verify(store: Store, name: str) -> None:
    manifest = store.load(name).manifest
    verify_corpus(store, manifest, lambda done, total: None)


@pytest.mark.parametrize("name", ["index.json", "mixture.json"])
@fuzzed(st.data(), share=0.4)
def test_a_corpus_file_of_other_values(corpus, name, data):
    tree = json.loads((corpus.folder() / name).read_bytes())
    store = with_file(corpus, name, json.dumps(data.draw(mutated_trees(tree))).encode())
    with success_or_refusal():
        verify(store, corpus.manifest.name)


@fuzzed(st.data(), share=0.2)
def test_an_order_of_other_bytes(corpus, data):
    content = (corpus.folder() / "order.npy").read_bytes()
    store = with_file(corpus, "order.npy", data.draw(mutated_bytes(content)))
    with success_or_refusal():
        open_mixture(store.load(corpus.manifest.name).folder(), f"{store.local_root}/tokens", 1)


@fuzzed(st.data(), share=5)
def test_an_index_of_other_values(corpus, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "index.json"
    tree = json.loads((corpus.folder() / "index.json").read_bytes())
    path.write_text(json.dumps(data.draw(mutated_trees(tree) | JSON)))
    with success_or_refusal():
        read_shards(path)


@fuzzed(st.data(), share=2)
def test_an_index_of_other_bytes(corpus, tmp_path_factory, data):
    path: Path = tmp_path_factory.getbasetemp() / "index.json"
    path.write_bytes(data.draw(mutated_bytes((corpus.folder() / "index.json").read_bytes())))
    with success_or_refusal():
        read_shards(path)
