"""Corpora: each document handed out once, bad files named, nothing heavy imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data import hub_corpora
from turbosparse.data.corpora import open_corpora
from turbosparse.data.documents import split_passages
from turbosparse.data.hub_corpora import HubCorpora
from turbosparse.data.installed_text import docstrings, files_of, written_text
from turbosparse.data.local_corpora import STAND_INS
from turbosparse.data.sources import SOURCES, source_named
from turbosparse.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora"


def write_rows(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def folder_documents(folder: Path, source: str) -> list[str]:
    return list(open_corpora("folder", str(folder)).documents(source))


# Sources


def test_every_row_of_table_4_has_hub_files_and_a_stand_in():
    assert set(SOURCES) == {*TABLE_4_PERCENT, "fineweb"}
    for source in SOURCES.values():
        assert source.stand_in in STAND_INS
        assert source.hub is not None
        assert bool(source.hub.filter_field) == bool(source.hub.filter_values)
    stand_ins = [SOURCES[name].stand_in for name in TABLE_4_PERCENT]
    assert len(set(stand_ins)) == 17
    assert SOURCES["fineweb"].stand_in == SOURCES["wanjuan-cc"].stand_in


def test_an_unknown_source_is_refused_with_the_known_names():
    with pytest.raises(DataError, match=r"the-pile.*wanjuan-cc"):
        source_named("the-pile")


# Passages


def test_passages_lose_nothing_and_break_at_paragraphs():
    text = "".join(f"Paragraph {number} " + "word " * (number % 90) + "\n\n" for number in range(2_000))
    passages = list(split_passages(text, longest=5_000))
    assert "".join(passages) == text
    assert all(2_500 <= len(passage) <= 5_000 for passage in passages[:-1])
    assert all(passage.startswith("Paragraph") for passage in passages)


def test_text_without_breaks_is_cut_all_the_same():
    assert list(split_passages("x" * 25, longest=10)) == ["x" * 10, "x" * 10, "x" * 5]


# Folder


@pytest.mark.parametrize(
    "mapping",
    ["one.jsonl: wanjuan-cc\ntwo.jsonl: [github-code]", "wanjuan-cc: [one.jsonl]\ngithub-code: two.jsonl"],
)
def test_the_mapping_may_be_keyed_by_file_or_by_source(tmp_path, mapping):
    write_rows(tmp_path / "one.jsonl", ["a", "b"])
    write_rows(tmp_path / "two.jsonl", ["c"])
    (tmp_path / "sources.yaml").write_text(mapping)
    assert folder_documents(tmp_path, "wanjuan-cc") == ["a", "b"]
    assert folder_documents(tmp_path, "github-code") == ["c"]


def test_a_file_of_two_sources_is_dealt_out_without_overlap(tmp_path):
    write_rows(tmp_path / "all.jsonl", [str(number) for number in range(5)])
    (tmp_path / "sources.yaml").write_text("all.jsonl: [wanjuan-cc, github-code]")
    assert folder_documents(tmp_path, "wanjuan-cc") == ["0", "2", "4"]
    assert folder_documents(tmp_path, "github-code") == ["1", "3"]


def test_copies_are_left_out_within_and_across_sources(tmp_path):
    write_rows(tmp_path / "web.jsonl", ["a", "b", "a"])
    write_rows(tmp_path / "wiki.jsonl", ["b", "c"])
    (tmp_path / "sources.yaml").write_text("web.jsonl: wanjuan-cc\nwiki.jsonl: redpajama-wiki")
    corpora = open_corpora("folder", str(tmp_path))
    assert list(corpora.documents("wanjuan-cc")) == ["a", "b"]
    assert list(corpora.documents("redpajama-wiki")) == ["c"]
    assert list(corpora.documents("wanjuan-cc")) == ["a", "b"], "asking again gives the same"


def test_names_say_the_category_without_a_mapping(tmp_path):
    write_rows(tmp_path / "arxiv_2020.jsonl", [f"paper {number}" for number in range(8)])
    write_rows(tmp_path / "c4.jsonl", [f"page {number}" for number in range(4)])
    corpora = open_corpora("folder", str(tmp_path))
    academic = ("pile-arxiv", "pile-pubmed", "pile-philpapers", "dolma-pes2o")
    dealt = {source: list(corpora.documents(source)) for source in academic}
    assert dealt["pile-pubmed"] == ["paper 1", "paper 5"]
    assert sorted(text for texts in dealt.values() for text in texts) == [
        f"paper {number}" for number in range(8)
    ]
    assert len(list(corpora.documents("fineweb"))) == 4


def test_uncovered_sources_fall_back_to_local_text_and_say_so(tmp_path):
    write_rows(tmp_path / "web.jsonl", ["a page", "another page"])
    corpora = open_corpora("folder", str(tmp_path))
    described = corpora.describe(["wanjuan-cc", "open-web-math"])
    assert "web.jsonl" in described["wanjuan-cc"]
    assert "not covered" in described["open-web-math"]
    assert "sympy docstrings" in described["open-web-math"]
    assert len(next(corpora.documents("open-web-math"))) > 100


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "cut off', "JSON"),
        (b'{"text": "\xff"}', "UTF-8"),
        (b'{"content": "x"}', "`text`"),
        (b'{"text": 7}', "`text`"),
        (b'["text"]', "`text`"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, complaint):
    (tmp_path / "web.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b'\n{"text": "fine too"}\n')
    (tmp_path / "sources.yaml").write_text("web.jsonl: wanjuan-cc")
    with pytest.raises(DataError, match=rf"web\.jsonl, line 3.*{complaint}"):
        folder_documents(tmp_path, "wanjuan-cc")


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="--corpora"):
        open_corpora("folder", None)
    with pytest.raises(DataError, match="existing folder"):
        open_corpora("folder", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="jsonl"):
        open_corpora("folder", str(tmp_path))
    write_rows(tmp_path / "web.jsonl", ["", "  "])
    with pytest.raises(DataError, match="jsonl"):
        open_corpora("folder", str(tmp_path))


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        ("web.jsonl: common-crawl", "common-crawl"),
        ("gone.jsonl: wanjuan-cc", "gone.jsonl"),
        ("- web.jsonl", "entries"),
        ("{", "YAML"),
    ],
)
def test_unusable_mappings_are_refused(tmp_path, mapping, complaint):
    write_rows(tmp_path / "web.jsonl", ["a"])
    (tmp_path / "sources.yaml").write_text(mapping)
    with pytest.raises(DataError, match=complaint):
        open_corpora("folder", str(tmp_path))


def test_a_folders_digest_follows_content_and_mapping_but_not_place(tmp_path):
    def digest(name: str, text: str, mapping: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        write_rows(folder / "x.jsonl", [text])
        (folder / "sources.yaml").write_text(mapping)
        return open_corpora("folder", str(folder)).digest(["wanjuan-cc", "github-code"])

    base = digest("a", "text", "x.jsonl: wanjuan-cc")
    assert digest("b", "text", "wanjuan-cc: x.jsonl") == base
    assert digest("c", "other", "x.jsonl: wanjuan-cc") != base
    assert digest("d", "text", "x.jsonl: github-code") != base


def test_the_shared_corpora_cover_five_categories():
    if not SHARED.is_dir():
        pytest.skip("shared test data absent")
    corpora = open_corpora("folder", str(SHARED))
    covered = [name for name, what in corpora.describe(TABLE_4_PERCENT).items() if "stand-in" not in what]
    assert {SOURCES[name].category for name in covered} == {"academic", "web", "wiki", "books", "math"}
    assert len(covered) == 12
    given = [text for name in covered for text in corpora.documents(name)]
    rows = [line for file in SHARED.glob("*.jsonl") for line in file.open("rb")]
    assert len(given) == len(set(given))
    assert set(given) == {json.loads(row)["text"] for row in rows}


# This machine


@pytest.fixture(scope="module")
def local_documents() -> dict[str, list[str]]:
    corpora = open_corpora("local", None)
    return {source: list(corpora.documents(source)) for source in TABLE_4_PERCENT}


def test_this_machine_has_enough_text_for_every_source(local_documents):
    num_bytes = {name: len("".join(texts).encode()) for name, texts in local_documents.items()}
    assert num_bytes["wanjuan-cc"] >= 4_000_000
    for source, percent in TABLE_4_PERCENT.items():
        if source != "wanjuan-cc":
            assert num_bytes[source] >= 3 * percent / 100 * 5_000_000, source


def test_local_documents_are_real_text_used_once(local_documents):
    texts = [text for texts in local_documents.values() for text in texts]
    assert len(texts) == len(set(texts))
    assert min(map(len, texts)) >= 200
    assert any("matrix" in text for text in local_documents["open-web-math"])
    assert all("#" in text or "extern" in text for text in local_documents["starcode-java"])


def test_local_documents_come_in_the_same_order_again(local_documents):
    again = open_corpora("local", None)
    for source in ("redpajama-wiki", "pile-pg19", "starcode-csharp", "proof-pile-2"):
        assert list(again.documents(source)) == local_documents[source]


def test_a_local_digest_follows_the_packages_read(monkeypatch):
    corpora = open_corpora("local", None)
    base = corpora.digest(["open-web-math"])
    assert base == open_corpora("local", None).digest(["open-web-math"])
    assert base != corpora.digest(["proof-pile-2"])
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert base != corpora.digest(["open-web-math"])


def test_collecting_imports_no_package_it_reads():
    script = (
        "import sys; from turbosparse.data.corpora import open_corpora;"
        "corpora = open_corpora('local', None); corpora.digest(['wanjuan-cc']);"
        "assert next(corpora.documents('pile-arxiv')) and next(corpora.documents('open-web-math'));"
        "print({'sklearn', 'sympy', 'torch', 'streaming', 'datasets', 'prefect'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_generated_and_broken_files_are_passed_over(tmp_path):
    (tmp_path / "minified.py").write_text("x = 1\n" * 200 + "y" * 400)
    (tmp_path / "table.py").write_text("0, 1, 2,\n" * 20_000)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe" * 1_000)
    (tmp_path / "written.py").write_text('"""' + "A sentence. " * 20 + '"""\n' + "x = 1\n" * 100)
    assert [f.name for f in sorted(tmp_path.iterdir()) if written_text(f)] == ["written.py"]
    assert len(list(docstrings(tmp_path / "written.py", 200))) == 1
    assert list(docstrings(tmp_path / "binary.py", 200)) == []
    assert list(files_of("no-such-package", "x", "*")) == []


# Hub


def test_a_gated_source_without_a_token_stops_before_any_request(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="hf auth login"):
        HubCorpora().digest(["pile-arxiv", "starcode-java"])
    with pytest.raises(DataError, match="starcoderdata"):
        next(HubCorpora().documents("starcode-java"))


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    class Unreachable:
        def dataset_info(self, *_, **__):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(DataError, match=r"peS2o.*data\.corpora=local"):
        HubCorpora().digest(["dolma-pes2o"])


def test_hub_rows_are_filtered_and_read_at_the_pinned_commit(monkeypatch):
    commits = []

    def rows(hub, commit):
        commits.append(commit)
        for subset in ("ArXiv", "PhilPapers", "ArXiv"):
            yield {"text": f"{subset} paper", "meta": {"pile_set_name": subset}}

    monkeypatch.setattr(hub_corpora, "_rows", rows)
    monkeypatch.setattr(hub_corpora, "_commit", lambda hub: f"commit of {hub.dataset}")
    corpora = HubCorpora()
    assert list(corpora.documents("pile-arxiv")) == ["ArXiv paper"]
    assert list(corpora.documents("pile-philpapers")) == ["PhilPapers paper"]
    assert commits == ["commit of monology/pile-uncopyrighted"] * 2


def test_a_hub_digest_follows_the_commit(monkeypatch):
    monkeypatch.setattr(hub_corpora, "_commit", lambda hub: "a")
    before = HubCorpora().digest(["pile-arxiv"])
    monkeypatch.setattr(hub_corpora, "_commit", lambda hub: "b")
    assert HubCorpora().digest(["pile-arxiv"]) != before


def test_substitutes_are_described(monkeypatch):
    assert "instead of WanJuan-CC" in HubCorpora().describe(["wanjuan-cc"])["wanjuan-cc"]
