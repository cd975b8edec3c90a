"""The benchmark's two ways do the same work, and its text is fresh each time."""

import json

import numpy as np
from streaming.base.format import reader_from_json

from turbosparse.bench.corpora import perturbed, real_documents, write_corpora
from turbosparse.bench.data import SEQUENCE_LENGTH, document_at_a_time
from turbosparse.data.encode import Encoder
from turbosparse.data.groups import Cleaning, Rows, write_group
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.data.tokens import write_tokens


def sequences(folder) -> np.ndarray:
    shards = json.loads((folder / "index.json").read_text())["shards"]
    readers = [reader_from_json(str(folder), None, shard) for shard in shards]
    return np.stack([reader[row]["tokens"] for reader in readers for row in range(len(reader))])


def test_both_ways_write_the_same_sequences(tmp_path):
    documents = [f"Document {n} says: " + "the quick brown fox, again; " * (n % 9 + 1) for n in range(900)]
    tokenizer = train_tokenizer(documents, 400)
    (tmp_path / "group").mkdir()
    write_group(Rows(iter(documents)), Cleaning(), 10_000_000, tmp_path / "group")
    written = document_at_a_time(tmp_path / "group", tokenizer, tmp_path / "theirs")
    found = write_tokens(
        tmp_path / "group", np.empty(0, np.int64), Encoder(tokenizer), SEQUENCE_LENGTH, tmp_path / "ours"
    )
    assert found["num_sequences"] == written > 10
    assert np.array_equal(sequences(tmp_path / "theirs"), sequences(tmp_path / "ours" / "shards"))


def test_perturbed_text_has_the_asked_size_and_does_not_repeat(tmp_path):
    documents = ["one two three four five six seven eight nine ten " * 20, "a b c d e f g h i j " * 20]
    texts = list(perturbed(documents, 100_000))
    assert 100_000 <= sum(map(len, texts)) < 102_000
    assert len(set(texts)) == len(texts)
    assert texts == list(perturbed(documents, 100_000))
    assert texts != list(perturbed(documents, 100_000, seed=18))
    write_corpora(documents, 20_000, 2, tmp_path / "corpora")
    assert real_documents(str(tmp_path / "corpora"))
    assert len(list((tmp_path / "corpora").glob("*.jsonl"))) == 2
