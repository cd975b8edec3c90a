"""Reading: every form gives the same documents, bad rows are named, memory follows no line."""

import json
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from turbosparse.data import reading_lines
from turbosparse.data.reading import EXCERPT_CHARACTERS, REASONS, Problem, format_of, read_texts
from turbosparse.data.reading_lines import Line, split_lines
from turbosparse.errors import DataError

CODECS = {".gz": "gzip", ".zst": "zstd"}
LIMIT = 1_000_000


def as_lines(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: text, "id": 7}).encode() + b"\n" for text in texts)


def compressed(content: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def read(file: Path, field: str = "text", limit: int = LIMIT) -> list[str | Problem]:
    return list(read_texts(str(file), field, limit))


def reasons(found: list[str | Problem]) -> list[str | None]:
    return [row.reason if isinstance(row, Problem) else None for row in found]


TEXTS = ["one", "zwei: äöü", "three\nlines\r\nof text", " 四 "] + [f"document {n} " * 40 for n in range(500)]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.json.zst", "a.parquet"]
)
def test_every_form_gives_the_same_documents_in_order(tmp_path, monkeypatch, name):
    monkeypatch.setattr(reading_lines, "CHUNK_BYTES", 1_000)
    file = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), file, row_group_size=50)
    else:
        content, codec = as_lines(TEXTS), CODECS.get(file.suffix)
        file.write_bytes(compressed(content, codec) if codec else content)
    assert read(file) == TEXTS
    fsspec.filesystem("memory").pipe(f"/forms/{name}", file.read_bytes())
    assert list(read_texts(f"memory://forms/{name}", "text", LIMIT)) == TEXTS


def test_the_form_is_told_by_the_whole_ending():
    assert format_of("web.v2.jsonl.zst") == ".jsonl.zst"
    assert [format_of(name) for name in ("a.txt", "a.gz", "jsonl", "a.parquet.gz")] == [None] * 4


@pytest.mark.parametrize("codec", CODECS.values())
def test_members_and_frames_follow_each_other(tmp_path, codec):
    suffix = next(suffix for suffix, name in CODECS.items() if name == codec)
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(b"".join(compressed(as_lines([text]), codec) for text in TEXTS[:5]))
    assert read(file) == TEXTS[:5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut off', "not JSON"),
        (b'{"text": "a"} {"text": "b"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "half \\ud800 of a pair"}', "not UTF-8"),
        (b'{"content": "x"}', "no text field"),
        (b'["text"]', "no text field"),
        (b'"text"', "no text field"),
        (b'{"text": 7}', "text not a string"),
        (b'{"text": null}', "text not a string"),
        (b'{"text": " \\n "}', "empty"),
        (b'{"text": "' + b"x" * LIMIT + b'"}', "too long"),
    ],
)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path, line, reason):
    file = tmp_path / "web.jsonl"
    file.write_bytes(b'{"text": "fine"}\n\n' + line + b'\n  \r\n{"text": "fine too"}')
    first, problem, last = read(file)
    assert (first, last) == ("fine", "fine too")
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.where) == (reason, "web.jsonl, line 3")
    assert problem.reason in REASONS
    assert len(problem.excerpt) <= EXCERPT_CHARACTERS
    assert problem.excerpt.isprintable()


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert read(file) == ["one", "two"]


def test_another_text_field_may_be_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(as_lines(["x"], "content"))
    assert read(file, "content") == ["x"]
    assert reasons(read(file)) == ["no text field"]


@pytest.mark.parametrize("suffix", CODECS)
def test_documents_before_the_damage_are_read(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(reading_lines, "CHUNK_BYTES", 1 << 24)  # more than the text
    texts = [f"document {number} {hash((number, 1))}" for number in range(100_000)]
    content = as_lines(texts)
    whole = compressed(content, CODECS[suffix])
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(whole[: len(whole) * 3 // 4])
    *documents, problem = read(file)
    assert documents == texts[: len(documents)]
    # A zstd block holds 128 KiB of text; what was decompressed before the last one is not lost.
    assert len(as_lines(documents)) > len(content) * 3 / 4 - 2 * 128 * 1024
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.where) == ("truncated file", file.name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_something_else_is_one_problem(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"neither compressed nor Parquet")
    assert reasons(read(file)) == ["truncated file"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_an_empty_file_gives_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert read(tmp_path / name) == []


def test_parquet_names_its_bad_rows(tmp_path):
    values = pa.array([b"fine", b"\xff", b" ", None, b"x" * 101, b"last"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers(), values.null_count)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": text, "number": range(6)}), file)
    assert reasons(read(file, limit=100)) == [
        None,
        "not UTF-8",
        "empty",
        "text not a string",
        "too long",
        None,
    ]
    assert reasons(read(file, "number")) == ["text not a string"] * 6
    missing = read(file, "content")
    assert reasons(missing) == ["no text field"] * 6
    assert missing[4] == Problem("no text field", "a.parquet, row 5", "columns: text, number")


def test_parquet_is_read_up_to_the_damage(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": TEXTS}), file, row_group_size=100, compression="zstd", use_dictionary=False
    )
    fourth = pq.ParquetFile(file).metadata.row_group(3).column(0)
    content = bytearray(file.read_bytes())
    start = fourth.data_page_offset
    content[start : start + fourth.total_compressed_size] = b"\1" * fourth.total_compressed_size
    file.write_bytes(content)
    *documents, problem = read(file)
    assert 250 < len(documents) <= 300
    assert documents == TEXTS[: len(documents)]
    assert reasons([problem]) == ["truncated file"]


def test_parquet_reads_only_its_text_column(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"], "other": ["y"]}), file, compression="none", use_dictionary=False)
    other = pq.ParquetFile(file).metadata.row_group(0).column(1)
    content = bytearray(file.read_bytes())
    content[other.data_page_offset : other.data_page_offset + 8] = b"\xff" * 8
    file.write_bytes(content)
    assert read(file) == ["x"]
    assert reasons(read(file, "other")) == ["truncated file"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_missing_file_is_the_users_mistake(tmp_path, name):
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_failing_file_system_is_not_taken_for_damage(tmp_path, monkeypatch, name):
    class Failing:
        closed = False

        def read(self, size):
            raise ConnectionResetError("the store went away")

        def seek(self, *where):
            return 0

        def tell(self):
            return 1_000

        def close(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    file_system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(file_system), "open", lambda *_, **__: Failing())
    with pytest.raises(ConnectionResetError):
        list(read_texts(f"memory://{name}", "text", LIMIT))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_huge_line_is_passed_over_without_being_held(tmp_path, suffix):
    line = b'{"text": "' + b"word " * 6_000_000 + b'"}\n'
    content = as_lines(["before"]) + line + as_lines(["after"])
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(compressed(content, CODECS[suffix]) if suffix else content)
    del content
    tracemalloc.start()
    found = read(file, limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(found) == [None, "too long", None]
    assert peak < len(line) / 4


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_lines_do_not_depend_on_the_chunks(size):
    content = b"abc\n\nabcd\nabcde\n" + b"x" * 50 + b"\nlast"
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    lines = list(split_lines(chunks, 4))
    assert [line.is_too_long for line in lines] == [False, False, False, True, True, False]
    assert [line.content for line in lines if not line.is_too_long] == [b"abc", b"", b"abcd", b"last"]
    assert list(split_lines([b"a\n"], 4)) == [Line(b"a", False)]
