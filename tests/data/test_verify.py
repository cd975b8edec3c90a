"""`verify` reads a corpus sequence by sequence, and finds what does not match."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_corpora import LENGTH, MIXTURE, make_config, read_shards, texts

from turbosparse.artifacts import Artifact, Store
from turbosparse.data.verify import verify_corpus
from turbosparse.errors import ArtifactError, DataError


@pytest.fixture(scope="module")
def corpus(make_corpus) -> Artifact:
    return make_corpus(make_config(), texts())


def test_verify_reports_what_lies_on_disk(corpus):
    report = verify_corpus(corpus.store, corpus.manifest, lambda *_: None)
    for source, row in report["sources"].items():
        sequences = read_shards(corpus, source)
        assert row["num_sequences"] == len(sequences)
        assert row["num_tokens"] == sequences.size
        assert row["num_documents"] == int((sequences == 1).sum())
        assert row["sequence_lengths"] == {str(LENGTH): len(sequences)}
        assert row["num_duplicate_sequences"] == len(sequences) - len(np.unique(sequences, axis=0))
        assert row["sha256"] == hashlib.sha256(sequences.tobytes()).hexdigest()
        assert row["drawn_ratio"] == row["wanted_ratio"] == MIXTURE[source] / 100


@pytest.fixture
def own_corpus(make_corpus, tmp_path) -> Artifact:
    return make_corpus(make_config(), texts(), tmp_path)


def some_shard(corpus: Artifact) -> Path:
    index = json.loads((corpus.folder() / "index.json").read_text())
    return corpus.store.local_root / "tokens" / index["shards"][0]["raw_data"]["basename"]


def reopened(corpus: Artifact) -> Store:
    """A store that has not verified anything yet."""
    return Store(corpus.store.root)


def test_verify_finds_a_flipped_byte(own_corpus):
    shard = some_shard(own_corpus)
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match=shard.name):
        verify_corpus(reopened(own_corpus), own_corpus.manifest, lambda *_: None)


def test_verify_finds_a_missing_shard(own_corpus):
    shard = some_shard(own_corpus)
    shard.unlink()
    with pytest.raises(ArtifactError, match=shard.name):
        verify_corpus(reopened(own_corpus), own_corpus.manifest, lambda *_: None)


@pytest.mark.parametrize("damage", ["swap", "drop", "count"])
def test_verify_finds_an_index_that_does_not_match(own_corpus, damage):
    """The index is damaged together with its digest, as a faulty merge would have written it."""
    file = own_corpus.folder() / "index.json"
    index = json.loads(file.read_text())
    if damage == "swap":
        index["shards"] = index["shards"][::-1]
    elif damage == "drop":
        del index["shards"][-1]
    else:
        index["shards"][0]["samples"] -= 1
    file.write_text(json.dumps(index))
    record = own_corpus.manifest.files["index.json"].model_copy(
        update={"size_bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    )
    files = own_corpus.manifest.files | {"index.json": record}
    manifest = own_corpus.manifest.model_copy(update={"files": files})
    with pytest.raises(DataError):
        verify_corpus(reopened(own_corpus), manifest, lambda *_: None)
