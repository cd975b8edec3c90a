"""Shards: every token is there, in proportion, and nothing held back is trained on."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from streaming.base.format import reader_from_json

from turbosparse.config.data import DataConfig
from turbosparse.data.shards import build_shards
from turbosparse.data.spool import Spool
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.progress import Progress, ignore_progress

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LENGTH = 32
MIXTURE = {"wanjuan-cc": 70.0, "redpajama-wiki": 20.0, "github-code": 10.0}


class ListCorpora:
    """Documents from memory."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts

    def documents(self, source: str) -> Iterator[str]:
        return iter(self.texts[source])

    def digest(self, sources: Iterable[str]) -> str:
        return ""

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        return {source: f"a list for {source}" for source in sources}


def numbered(source: str, count: int) -> list[str]:
    return [f"{source} document {number}: " + f"word{number} </s> of text, " * 12 for number in range(count)]


def make_corpora() -> ListCorpora:
    return ListCorpora({source: numbered(source, 60) for source in MIXTURE})


def make_config(**changes) -> DataConfig:
    values = {
        "corpora": "local",
        "mixture": MIXTURE,
        "num_tokens": 100 * LENGTH,
        "sequence_length": LENGTH,
        "vocab_size": 400,
    }
    return DataConfig(**{**values, **changes})


def read_shards(folder: Path, source: str) -> np.ndarray:
    """Returns what lies on disk, [num_sequences, sequence_length]."""
    out = folder / "shards" / source
    shards = json.loads((out / "index.json").read_text())["shards"]
    readers = [reader_from_json(str(out), None, shard) for shard in shards]
    return np.stack([reader[number]["tokens"] for reader in readers for number in range(len(reader))])


def files_digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "corpus"
    heard: list[Progress] = []
    metrics = build_shards(make_config(), make_corpora(), None, folder, heard.append)
    return folder, metrics, heard


def test_sequences_are_in_proportion(built):
    folder, metrics, _ = built
    assert json.loads((folder / "mixture.json").read_text()) == {
        "sequence_length": LENGTH,
        "sequences": {"wanjuan-cc": 70, "redpajama-wiki": 20, "github-code": 10},
        "seed": 17,
    }
    assert metrics["token_ratio"] == {"wanjuan-cc": 0.7, "redpajama-wiki": 0.2, "github-code": 0.1}
    assert (metrics["num_tokens"], metrics["num_sequences"]) == (100 * LENGTH, 100)
    assert read_shards(folder, "redpajama-wiki").shape == (20, LENGTH)


@pytest.mark.parametrize("source", MIXTURE)
def test_sequences_join_to_whole_documents_between_bos_and_eos(built, source):
    folder, _, _ = built
    tokenizer = load_tokenizer(folder / "tokenizer")
    stream = read_shards(folder, source).reshape(-1).tolist()
    texts = set(make_corpora().texts[source])
    assert stream[0] == tokenizer.bos_token_id
    documents = " ".join(map(str, stream)).split(" 2 1 ")
    for document in documents[1:-1]:
        assert tokenizer.decode([int(token) for token in document.split()]) in texts
    assert len(documents) > 3


def test_no_token_is_lost_but_the_stated_tail(tmp_path):
    mixture = {"wanjuan-cc": 100.0}
    corpora = ListCorpora({"wanjuan-cc": numbered("web", 100)})
    config = make_config(mixture=mixture, num_tokens=2_000 * LENGTH, max_repetitions=99)
    metrics = build_shards(config, corpora, None, tmp_path / "out", ignore_progress)
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    held_back = {json.loads(line)["text"] for line in (tmp_path / "out/held_back.jsonl").open()}
    kept = [text for text in corpora.texts["wanjuan-cc"] if text not in held_back]
    ids = tokenizer(kept, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    num_tokens = sum(len(row) + 2 for row in ids)
    sequences = read_shards(tmp_path / "out", "wanjuan-cc")
    assert sequences.size + metrics["num_tail_tokens"]["wanjuan-cc"] == num_tokens
    assert metrics["num_tail_tokens"]["wanjuan-cc"] < LENGTH
    assert metrics["repetitions"]["wanjuan-cc"] == 2_000 / len(sequences)
    assert metrics["bytes_per_token"] == sum(len(text.encode()) for text in kept) / num_tokens


def test_held_back_documents_are_not_trained_on(built):
    folder, metrics, _ = built
    tokenizer = load_tokenizer(folder / "tokenizer")
    rows = [json.loads(line) for line in (folder / "held_back.jsonl").open(encoding="utf-8")]
    for source in MIXTURE:
        held_back = [row["text"] for row in rows if row["source"] == source]
        assert len(held_back) == metrics["num_held_back_documents"][source] == 8
        trained = tokenizer.decode(read_shards(folder, source).reshape(-1).tolist())
        for text in held_back:
            assert text in make_corpora().texts[source]
            assert text.split(": ")[0] + ":" not in trained


def test_a_book_is_split_so_that_passages_can_be_held_back(tmp_path):
    books = [f"Book {number}\n\n" + f"A paragraph of book {number}.\n\n" * 6_000 for number in range(3)]
    config = make_config(mixture={"redpajama-books": 100.0})
    corpora = ListCorpora({"redpajama-books": books})
    metrics = build_shards(config, corpora, None, tmp_path / "out", ignore_progress)
    rows = [json.loads(line) for line in (tmp_path / "out" / "held_back.jsonl").open()]
    assert metrics["num_held_back_documents"] == {"redpajama-books": 8}
    assert all(len(row["text"]) <= 20_000 for row in rows)


@pytest.mark.parametrize(("num_documents", "num_held_back"), [(1, 0), (2, 1), (15, 1), (16, 8)])
def test_small_sources_hold_back_fewer(tmp_path, num_documents, num_held_back):
    corpora = ListCorpora({"wanjuan-cc": numbered("web", num_documents)})
    config = make_config(mixture={"wanjuan-cc": 100.0}, num_tokens=LENGTH)
    metrics = build_shards(config, corpora, None, tmp_path / "out", ignore_progress)
    assert metrics["num_held_back_documents"] == {"wanjuan-cc": num_held_back}


def test_repeating_stops_at_the_limit_and_leaves_nothing_to_draw(tmp_path):
    corpora = make_corpora()
    corpora.texts["redpajama-wiki"] = numbered("wiki", 2)
    with pytest.raises(DataError, match=r"redpajama-wiki.*20.*data\.num_tokens to about \d+"):
        build_shards(make_config(max_repetitions=1.5), corpora, None, tmp_path / "a", ignore_progress)
    assert not (tmp_path / "a" / "mixture.json").exists()
    assert not (tmp_path / "a" / ".spools").exists()
    metrics = build_shards(make_config(max_repetitions=20), corpora, None, tmp_path / "b", ignore_progress)
    on_disk = len(read_shards(tmp_path / "b", "redpajama-wiki"))
    assert metrics["repetitions"]["redpajama-wiki"] == 20 / on_disk > 1.5
    assert metrics["token_ratio"]["redpajama-wiki"] == 0.2


def test_a_source_without_documents_is_named(tmp_path):
    corpora = make_corpora()
    corpora.texts["github-code"] = []
    with pytest.raises(DataError, match=r"data\.mixture\.github-code"):
        build_shards(make_config(), corpora, None, tmp_path / "out", ignore_progress)


def test_an_unknown_source_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="the-pile"):
        build_shards(
            make_config(mixture={"the-pile": 100.0}), make_corpora(), None, tmp_path / "out", ignore_progress
        )
    assert not (tmp_path / "out").exists()


def test_the_same_configuration_gives_the_same_bytes(built, tmp_path):
    folder, _, _ = built
    backwards = make_config(mixture=dict(reversed(MIXTURE.items())))
    build_shards(backwards, make_corpora(), None, tmp_path / "same", ignore_progress)
    build_shards(make_config(seed=18), make_corpora(), None, tmp_path / "other", ignore_progress)
    assert files_digest(tmp_path / "same") == files_digest(folder)
    held_back = "held_back.jsonl"
    assert files_digest(tmp_path / "other")[held_back] != files_digest(folder)[held_back]


def test_progress_ends_at_all_sequences(built):
    _, _, heard = built
    packed = [progress for progress in heard if progress.stage == "pack"]
    assert [progress.completed for progress in packed] == sorted(progress.completed for progress in packed)
    assert (packed[-1].completed, packed[-1].total, packed[-1].unit) == (100, 100, "sequences")


def test_no_more_text_is_read_than_the_share_can_need(tmp_path):
    def endless() -> Iterator[str]:
        number = 0
        while True:
            yield f"page {number} " * 50
            number += 1

    spool = Spool(tmp_path / "spool", endless(), 17, max_bytes=100_000)
    assert 100_000 <= spool.num_bytes < 101_000
    texts = list(spool.read(0, len(spool)))
    assert len(set(texts)) == len(texts) == len(spool)
    assert texts != sorted(texts, key=lambda text: int(text.split()[1])), "not shuffled"


def test_a_sentencepiece_tokenizer_can_be_given(tmp_path):
    folder = SHARED / "tokenizers" / "mistral_v1"
    if not folder.is_dir():
        pytest.skip("shared test data absent")
    metrics = build_shards(make_config(), make_corpora(), str(folder), tmp_path / "out", ignore_progress)
    assert metrics["vocab_size"] == 32_000
    text = load_tokenizer(folder).decode(read_shards(tmp_path / "out", "github-code")[0].tolist())
    assert text.startswith("<s> github-code document")
