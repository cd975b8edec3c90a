"""Corpora of numbered documents, small enough to be read back whole."""

import hashlib
import json

import numpy as np
from streaming.base.format import reader_from_json

from turbosparse.artifacts import Artifact
from turbosparse.config.data import DataConfig

LENGTH = 32
MIXTURE = {"wanjuan-cc": 70.0, "redpajama-wiki": 20.0, "github-code": 10.0}


def numbered(source: str, count: int, first: int = 0) -> list[str]:
    return [
        f"{source} document {number}: " + f"{source}{number} </s> of text, " * 12
        for number in range(first, first + count)
    ]


def texts(**changes: list) -> dict[str, list]:
    return {source: numbered(source, 60) for source in MIXTURE} | changes


def make_config(**changes) -> DataConfig:
    values = {
        "corpora": "local",
        "mixture": MIXTURE,
        "num_tokens": 100 * LENGTH,
        "sequence_length": LENGTH,
        "vocab_size": 400,
        "group_bytes": 10_000,
        "collected_bytes_per_token": 8,
    }
    return DataConfig(**{**values, **changes})


def only_web(**changes) -> DataConfig:
    return make_config(mixture={"wanjuan-cc": 100.0}, **changes)


def read_shards(corpus: Artifact, source: str) -> np.ndarray:
    """Returns what lies on disk, [num_sequences, sequence_length]."""
    folder = corpus.folder()
    tokens = corpus.store.local_root / "tokens"
    shards = json.loads((folder / "index.json").read_text())["shards"]
    readers = [reader_from_json(str(tokens), None, shard) for shard in shards]
    rows = [reader[number]["tokens"] for reader in readers for number in range(len(reader))]
    on_disk = json.loads((folder / "mixture.json").read_text())["on_disk"]
    start = sum(list(on_disk.values())[: list(on_disk).index(source)])
    return np.stack(rows[start : start + on_disk[source]])


def digests(corpus: Artifact) -> dict[str, str]:
    """Digests of all tokens on disk and of the corpus's own files, paths of attempts apart."""
    found = {name: record.sha256 for name, record in corpus.manifest.files.items() if name != "index.json"}
    for source in corpus.manifest.metrics["bytes"]:
        found[source] = hashlib.sha256(read_shards(corpus, source).tobytes()).hexdigest()
    return found
