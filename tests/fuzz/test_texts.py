"""Corpora, instruction rows and held-back documents of any content: read, counted as broken, or refused."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from mutations import JSON, fuzzed, mutated_bytes, mutated_trees, success_or_refusal

from turbosparse.data.conversations import BrokenRow, parse_row, read_conversations
from turbosparse.data.corpora import open_corpora
from turbosparse.data.held_back import read_documents
from turbosparse.data.reading import Problem

ROWS = [{"text": f"Row {number} says ä and 漢."} for number in range(4)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
CONVERSATIONS = [
    {"question": "Who?", "answer": "An owl."},
    {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "An owl."}]},
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "An owl."}]},
]
MAPPING = b"a.jsonl: wanjuan-cc\nb.jsonl: {sources: [pile-arxiv, dolma-pes2o], text_field: text}\n"


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


FILES = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
    "a.jsonl.zst": zstd(LINES),
    "a.parquet": parquet(ROWS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("texts")


def read_corpus(folder: Path) -> None:
    """Reads every document of a folder as a build would."""
    corpora = open_corpora("folder", str(folder))
    corpora.digest(["wanjuan-cc"])
    corpora.problems(["wanjuan-cc"])
    for file in corpora.files("wanjuan-cc"):
        for text in file.read(1_000):
            assert isinstance(text, str | Problem)
            if isinstance(text, str):
                assert text.strip()
                text.encode()


def only(folder: Path, name: str, content: bytes) -> Path:
    """Leaves one file in the folder."""
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", FILES)
@fuzzed(st.data(), share=2)
def test_a_corpus_file_of_other_bytes(folder, name, data):
    only(folder, name, data.draw(mutated_bytes(FILES[name]) | st.binary(max_size=100)))
    with success_or_refusal():
        read_corpus(folder)


@fuzzed(st.lists(JSON | mutated_trees(ROWS[0]), max_size=4), share=2)
def test_corpus_rows_of_other_values(folder, rows):
    only(folder, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    with success_or_refusal():
        read_corpus(folder)


@fuzzed(mutated_bytes(MAPPING) | st.binary(max_size=60), share=2)
def test_a_mapping_of_other_bytes(folder, content):
    only(folder, "sources.yaml", content)
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(LINES)
    with success_or_refusal():
        read_corpus(folder)


@fuzzed(JSON | mutated_trees(CONVERSATIONS), share=10)
def test_a_row_of_other_values(values):
    for row in values if isinstance(values, list) else [values]:
        if isinstance(row, dict):
            try:
                conversation = parse_row(row)
            except BrokenRow:
                continue
            assert conversation.turns[-1].role == "assistant"
            json.dumps(conversation.messages, ensure_ascii=False).encode()


@fuzzed(st.data(), share=2)
def test_a_file_of_rows_of_other_bytes(folder, data):
    lines = "\n".join(map(json.dumps, CONVERSATIONS)).encode()
    path = only(folder, "rows.jsonl", data.draw(mutated_bytes(lines) | st.binary(max_size=100)))
    with success_or_refusal():
        list(read_conversations(path))


@fuzzed(mutated_bytes(b'{"source": "wanjuan-cc", "text": "An owl."}\n' * 3) | st.binary(max_size=60), share=2)
def test_held_back_documents_of_other_bytes(folder, content):
    path = only(folder, "held_back.jsonl", content)
    with success_or_refusal():
        for document in read_documents(path):
            document.text.encode()
            document.source.encode()
