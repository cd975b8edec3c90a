"""Corpora: files any process can read, digests that follow what is read, bad folders named."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data import reading_folder
from turbosparse.data.corpora import Corpora, SourceFile, open_corpora
from turbosparse.data.installed_text import docstrings, files_of, written_text
from turbosparse.data.reading import Problem
from turbosparse.data.sources import SOURCES
from turbosparse.errors import ConfigError, DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora"
LIMIT = 10_000_000


def write_rows(file: Path, texts: list[str], field: str = "text") -> None:
    file.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")


def read_source(corpora: Corpora, source: str) -> list[str | Problem]:
    return [text for file in corpora.files(source) for text in file.read(LIMIT)]


def read_folder(folder: Path, source: str) -> list[str | Problem]:
    return read_source(open_corpora("folder", str(folder)), source)


def read_elsewhere(file: SourceFile, tmp_path: Path) -> list[str]:
    """Reads a pickled file in a process that has nothing else of this one."""
    (tmp_path / "file.pickle").write_bytes(pickle.dumps(file))
    script = (
        "import json, pickle, sys; file = pickle.load(open(sys.argv[1], 'rb'));"
        f"print(json.dumps([text for text in file.read({LIMIT}) if isinstance(text, str)]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file.pickle")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# Folder


@pytest.mark.parametrize(
    "mapping",
    [
        "one.jsonl: wanjuan-cc\ntwo.jsonl: [github-code]",
        "wanjuan-cc: [one.jsonl]\ngithub-code: two.jsonl",
        "one.jsonl: {sources: wanjuan-cc}\ntwo.jsonl: {sources: [github-code], text_field: text}",
    ],
)
def test_the_mapping_may_be_keyed_by_file_or_by_source(tmp_path, mapping):
    write_rows(tmp_path / "one.jsonl", ["a", "b"])
    write_rows(tmp_path / "two.jsonl", ["c"])
    (tmp_path / "sources.yaml").write_text(mapping)
    assert read_folder(tmp_path, "wanjuan-cc") == ["a", "b"]
    assert read_folder(tmp_path, "github-code") == ["c"]


def test_a_file_may_have_another_text_field_and_lie_deeper(tmp_path):
    (tmp_path / "java").mkdir()
    write_rows(tmp_path / "java" / "one.jsonl", ["class A"], field="content")
    (tmp_path / "sources.yaml").write_text("java/one.jsonl: {sources: [starcode-java], text_field: content}")
    assert read_folder(tmp_path, "starcode-java") == ["class A"]


def test_a_file_of_two_sources_is_dealt_out_and_its_problems_come_once(tmp_path):
    lines = [json.dumps({"text": str(number)}) for number in range(5)]
    (tmp_path / "all.jsonl").write_text("\n".join([lines[0], "{", *lines[1:3], '{"text": 1}', *lines[3:]]))
    (tmp_path / "sources.yaml").write_text("all.jsonl: [github-code, wanjuan-cc]")
    web, code = read_folder(tmp_path, "wanjuan-cc"), read_folder(tmp_path, "github-code")
    assert [text for text in web if isinstance(text, str)] == ["0", "2", "4"]
    assert [text.where for text in web if isinstance(text, Problem)] == [
        "all.jsonl, line 2",
        "all.jsonl, line 5",
    ]
    assert code == ["1", "3"]


def test_names_say_the_category_without_a_mapping(tmp_path):
    write_rows(tmp_path / "arxiv_2020.jsonl", [f"paper {number}" for number in range(8)])
    write_rows(tmp_path / "c4.jsonl", [f"page {number}" for number in range(4)])
    (tmp_path / "notes.txt").write_text("not a corpus")
    (tmp_path / ".hidden.jsonl").write_text("{")
    corpora = open_corpora("folder", str(tmp_path))
    academic = ("pile-arxiv", "pile-pubmed", "pile-philpapers", "dolma-pes2o")
    dealt = {source: read_source(corpora, source) for source in academic}
    assert dealt["pile-pubmed"] == ["paper 1", "paper 5"]
    assert sorted(text for texts in dealt.values() for text in texts) == [
        f"paper {number}" for number in range(8)
    ]
    assert read_source(corpora, "wanjuan-cc") == ["page 0", "page 2"]
    assert len(read_source(corpora, "fineweb")) == 4, "no row of Table 4: it shares with none"


def test_a_folder_may_hold_every_form_and_links(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), folder / "web_1.parquet")
    with pa.CompressedOutputStream(str(folder / "web_2.jsonl.zst"), "zstd") as stream:
        stream.write(b'{"text": "b"}\n')
    write_rows(elsewhere / "blob", ["c"])
    (folder / "web_3.jsonl").symlink_to(elsewhere / "blob")
    (folder / "web_4.jsonl").mkdir()
    assert read_folder(folder, "fineweb") == ["a", "b", "c"]


@pytest.fixture
def memory_folder() -> Iterator[str]:
    file_system = fsspec.filesystem("memory")
    file_system.pipe(
        {
            "/bucket/corpus/web.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
            "/bucket/corpus/deep/code.jsonl": b'{"content": "c"}\n',
        }
    )
    yield "memory://bucket/corpus"
    file_system.rm("/bucket", recursive=True)


def test_a_folder_may_be_a_uri(memory_folder):
    assert read_source(open_corpora("folder", memory_folder), "fineweb") == ["a", "b"]
    mapping = b"web.jsonl: wanjuan-cc\ndeep/code.jsonl: {sources: [github-code], text_field: content}"
    fsspec.filesystem("memory").pipe("/bucket/corpus/sources.yaml", mapping)
    corpora = open_corpora("folder", memory_folder)
    assert read_source(corpora, "wanjuan-cc") == ["a", "b"]
    assert read_source(corpora, "github-code") == ["c"]
    with pytest.raises(DataError, match="existing folder"):
        open_corpora("folder", "memory://bucket/corpus/web.jsonl")
    with pytest.raises(ConfigError, match="a path, or a URI of"):
        open_corpora("folder", "no-such-store://bucket")


def test_a_remote_digest_follows_the_file_without_reading_it(memory_folder, monkeypatch):
    file_system = fsspec.filesystem("memory")
    with monkeypatch.context() as patched:
        patched.setattr(type(file_system), "open", lambda *_, **__: pytest.fail("downloaded"))
        base = open_corpora("folder", memory_folder).digest(["fineweb"])
        assert open_corpora("folder", memory_folder).digest(["fineweb"]) == base
    file_system.pipe("/bucket/corpus/web.jsonl", b'{"text": "a"}\n{"text": "c"}\n')
    assert open_corpora("folder", memory_folder).digest(["fineweb"]) != base


def test_uncovered_sources_fall_back_to_local_text_and_say_so(tmp_path):
    write_rows(tmp_path / "web.jsonl", ["a page", "another page"])
    corpora = open_corpora("folder", str(tmp_path))
    described = corpora.describe(["wanjuan-cc", "open-web-math"])
    assert described["wanjuan-cc"] == "web.jsonl (document 1 of 2)"
    assert "not covered" in described["open-web-math"]
    assert corpora.substitutes(["wanjuan-cc", "open-web-math"]) == {
        "open-web-math": "sympy docstrings instead of Open-web-math"
    }
    assert len(read_source(corpora, "open-web-math")[0]) > 100


def test_copies_of_files_are_left_out_and_named(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "b.json"):
        write_rows(tmp_path / name, ["one", "two"])
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.jsonl").write_bytes(b"")
    corpora = open_corpora("folder", str(tmp_path))
    assert [file.name for file in corpora.files("fineweb")] == ["a.jsonl", "b.json", "c.jsonl", "d.jsonl"]
    assert corpora.problems(["fineweb", "wanjuan-cc"]) == [
        Problem("duplicate file", "b.jsonl", "same bytes as a.jsonl"),
        Problem("empty file", "c.jsonl", ""),
        Problem("empty file", "d.jsonl", ""),
    ]
    assert corpora.problems(["open-web-math"]) == []


def test_a_source_with_nothing_but_copies_is_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", ["one"])
    write_rows(tmp_path / "b.jsonl", ["one"])
    (tmp_path / "sources.yaml").write_text("a.jsonl: wanjuan-cc\nb.jsonl: github-code")
    with pytest.raises(DataError, match=r"github-code.*b\.jsonl.*sources\.yaml"):
        open_corpora("folder", str(tmp_path)).files("github-code")


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="--corpora"):
        open_corpora("folder", None)
    with pytest.raises(DataError, match="existing folder"):
        open_corpora("folder", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="parquet"):
        open_corpora("folder", str(tmp_path))


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        ("web.jsonl: common-crawl", "common-crawl"),
        ("gone.jsonl: wanjuan-cc", "gone.jsonl"),
        ("web.txt: wanjuan-cc", "web.txt"),
        ("- web.jsonl", "entries"),
        ("{", "YAML"),
        ("web.jsonl: {source: wanjuan-cc}", "web.jsonl.*text_field"),
        ("web.jsonl: {sources: wanjuan-cc, text_field: 7}", "web.jsonl.*text_field"),
        ("web.jsonl: {sources: wanjuan-cc, field: body}", "web.jsonl.*text_field"),
    ],
)
def test_unusable_mappings_are_refused(tmp_path, mapping, complaint):
    write_rows(tmp_path / "web.jsonl", ["a"])
    (tmp_path / "web.txt").write_text("a")
    (tmp_path / "sources.yaml").write_text(mapping)
    with pytest.raises(DataError, match=complaint):
        open_corpora("folder", str(tmp_path))


def test_a_folders_digest_follows_what_is_read_but_not_its_place(tmp_path):
    def digest(place: str, text: str, mapping: str, name: str = "x.jsonl") -> str:
        folder = tmp_path / place
        folder.mkdir()
        write_rows(folder / name, [text])
        (folder / "sources.yaml").write_text(mapping.format(name))
        return open_corpora("folder", str(folder)).digest(["wanjuan-cc", "github-code"])

    base = digest("a", "text", "{}: wanjuan-cc")
    assert digest("b", "text", "wanjuan-cc: {}") == base
    assert digest("c", "text", "{}: wanjuan-cc", name="y.jsonl") == base
    changed = [
        digest("d", "other", "{}: wanjuan-cc"),
        digest("e", "text", "{}: github-code"),
        digest("f", "text", "{}: {{sources: wanjuan-cc, text_field: body}}"),
        digest("g", "text", "{}: [wanjuan-cc, github-code]"),
    ]
    assert len({base, *changed}) == 5


def test_shares_of_a_file_have_digests_of_their_own(tmp_path):
    write_rows(tmp_path / "c4.jsonl", ["a", "b"])
    corpora = open_corpora("folder", str(tmp_path))
    digests = [corpora.files(name)[0].digest for name in ("wanjuan-cc", "pile-openwebtext2", "fineweb")]
    assert len(set(digests)) == 3


def test_a_file_is_digested_again_only_when_it_has_changed(tmp_path, monkeypatch):
    file = tmp_path / "c4.jsonl"
    write_rows(file, ["a"])
    base = open_corpora("folder", str(tmp_path)).digest(["fineweb"])
    with monkeypatch.context() as patched:
        patched.setattr(reading_folder.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert open_corpora("folder", str(tmp_path)).digest(["fineweb"]) == base
    status = file.stat()
    write_rows(file, ["b"])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert open_corpora("folder", str(tmp_path)).digest(["fineweb"]) != base


def test_a_share_is_read_by_a_fresh_process(tmp_path):
    write_rows(tmp_path / "c4.jsonl", ["a", "b", "c"])
    file = open_corpora("folder", str(tmp_path)).files("pile-openwebtext2")[0]
    assert read_elsewhere(file, tmp_path) == ["b"]


def test_the_shared_corpora_cover_five_categories():
    if not SHARED.is_dir():
        pytest.skip("shared test data absent")
    corpora = open_corpora("folder", str(SHARED))
    covered = [name for name in TABLE_4_PERCENT if not corpora.substitutes([name])]
    assert {SOURCES[name].category for name in covered} == {"academic", "web", "wiki", "books", "math"}
    assert len(covered) == 12
    given = [text for name in covered for text in read_source(corpora, name)]
    rows = [line for file in SHARED.glob("*.jsonl") for line in file.open("rb")]
    assert sorted(given) == sorted(json.loads(row)["text"] for row in rows)


# This machine


@pytest.fixture(scope="module")
def local_documents() -> dict[str, list[str]]:
    corpora = open_corpora("local", None)
    return {source: read_source(corpora, source) for source in TABLE_4_PERCENT}


def test_this_machine_has_enough_text_for_every_source(local_documents):
    num_bytes = {name: len("".join(texts).encode()) for name, texts in local_documents.items()}
    assert num_bytes["wanjuan-cc"] >= 4_000_000
    for source, percent in TABLE_4_PERCENT.items():
        if source != "wanjuan-cc":
            assert num_bytes[source] >= 3 * percent / 100 * 5_000_000, source


def test_local_documents_are_real_text(local_documents):
    texts = [text for texts in local_documents.values() for text in texts]
    assert not [text for text in texts if isinstance(text, Problem)]
    assert min(map(len, texts)) >= 200
    # Packages repeat some docstrings; whole stand-ins may not share their text.
    assert len(set(texts)) > 0.9 * len(texts)
    assert any("matrix" in text for text in local_documents["open-web-math"])
    assert all("#" in text or "extern" in text for text in local_documents["starcode-java"])


def test_local_documents_come_in_the_same_order_again(local_documents):
    again = open_corpora("local", None)
    for source in ("redpajama-wiki", "pile-pg19", "starcode-csharp", "proof-pile-2"):
        assert read_source(again, source) == local_documents[source]


def test_a_local_digest_follows_the_packages_read(monkeypatch):
    corpora = open_corpora("local", None)
    base = corpora.digest(["open-web-math"])
    assert base == open_corpora("local", None).digest(["open-web-math"])
    assert base != corpora.digest(["proof-pile-2"])
    assert base != corpora.digest(["algebraic-stack"]), "other files of the same package"
    assert corpora.files("open-web-math")[0].digest != corpora.files("algebraic-stack")[0].digest
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert base != corpora.digest(["open-web-math"])


def test_collecting_imports_no_package_it_reads():
    script = (
        "import sys; from turbosparse.data.corpora import open_corpora;"
        "corpora = open_corpora('local', None); corpora.digest(['wanjuan-cc']);"
        "files = corpora.files('pile-arxiv') + corpora.files('open-web-math');"
        "assert all(next(file.read(10**6)) for file in files); open_corpora('hub', None);"
        "heavy = 'sklearn sympy torch streaming datasets prefect pyarrow huggingface_hub'.split();"
        "print(set(heavy) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_stand_in_says_what_it_stands_in_for_and_is_read_by_a_fresh_process(tmp_path, local_documents):
    corpora = open_corpora("local", None)
    assert corpora.substitutes(["starcode-csharp"]) == {
        "starcode-csharp": "CUDA and C headers instead of Starcode-C#"
    }
    assert corpora.problems(["starcode-csharp"]) == []
    file = corpora.files("starcode-csharp")[0]
    assert read_elsewhere(file, tmp_path) == local_documents["starcode-csharp"]


def test_a_stand_ins_long_text_is_named():
    file = open_corpora("local", None).files("redpajama-wiki")[0]
    problems = [text for text in file.read(2_000) if isinstance(text, Problem)]
    assert problems
    assert {problem.reason for problem in problems} == {"too long"}


def test_generated_and_broken_files_are_passed_over(tmp_path):
    (tmp_path / "minified.py").write_text("x = 1\n" * 200 + "y" * 400)
    (tmp_path / "table.py").write_text("0, 1, 2,\n" * 20_000)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe" * 1_000)
    (tmp_path / "written.py").write_text('"""' + "A sentence. " * 20 + '"""\n' + "x = 1\n" * 100)
    assert [f.name for f in sorted(tmp_path.iterdir()) if written_text(f)] == ["written.py"]
    assert len(list(docstrings(tmp_path / "written.py", 200))) == 1
    assert list(docstrings(tmp_path / "binary.py", 200)) == []
    assert list(files_of("no-such-package", "x", "*")) == []
