"""The corpus: every token is there, in proportion, once; nothing held back is trained on."""

import json
from pathlib import Path

import pytest
from small_corpora import LENGTH, MIXTURE, digests, make_config, numbered, only_web, read_shards, texts

from turbosparse.artifacts import Artifact, ArtifactSpec, Store
from turbosparse.config.data import DataConfig
from turbosparse.data.corpora import open_corpora
from turbosparse.data.corpus import CorpusInputs, build_corpus
from turbosparse.data.reading import Problem
from turbosparse.data.stream import open_mixture
from turbosparse.data.tokenize import GivenTokenizer
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.data.verify import verify_corpus
from turbosparse.errors import DataError
from turbosparse.progress import Progress, ignore_progress
from turbosparse.reports.corpus import corpus_markdown
from turbosparse.workers import Processes, Threads, map_inline

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def num_groups(corpus: Artifact, source: str) -> int:
    found = [manifest for manifest in corpus.store.manifests() if manifest.kind == "documents"]
    return sum(manifest.metrics["source"] == source for manifest in found)


def held_back_rows(corpus: Artifact) -> list[dict[str, str]]:
    return [json.loads(line) for line in (corpus.folder() / "held_back.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module")
def heard() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def corpus(make_corpus, heard) -> Artifact:
    return make_corpus(make_config(), texts(), on_progress=heard.append)


def test_sequences_are_in_proportion(corpus):
    mixture = json.loads((corpus.folder() / "mixture.json").read_text())
    assert mixture["sequences"] == {"wanjuan-cc": 70, "redpajama-wiki": 20, "github-code": 10}
    metrics = corpus.manifest.metrics
    assert metrics["token_ratio"] == {"wanjuan-cc": 0.7, "redpajama-wiki": 0.2, "github-code": 0.1}
    assert (metrics["num_tokens"], metrics["num_sequences"]) == (100 * LENGTH, 100)


@pytest.mark.parametrize("source", MIXTURE)
def test_sequences_join_to_whole_documents_between_bos_and_eos(corpus, source):
    tokenizer = load_tokenizer(corpus.folder() / "tokenizer")
    stream = read_shards(corpus, source).reshape(-1).tolist()
    assert stream[0] == tokenizer.bos_token_id
    documents = " ".join(map(str, stream)).split(" 2 1 ")
    decoded = [tokenizer.decode([int(token) for token in document.split()]) for document in documents[1:-1]]
    cut = [text for text in decoded if text not in texts()[source]]
    # A group's tail is cut off, so that what follows joins the beginning of one document to another.
    assert len(decoded) > 10
    assert len(cut) < num_groups(corpus, source)


def test_no_token_is_lost_but_the_stated_tail_of_each_group(make_corpus):
    documents = numbered("web", 100)
    corpus = make_corpus(only_web(num_tokens=2_000 * LENGTH, max_repetitions=99), {"wanjuan-cc": documents})
    tokenizer = load_tokenizer(corpus.folder() / "tokenizer")
    held_back = {row["text"] for row in held_back_rows(corpus)}
    kept = [text for text in documents if text not in held_back]
    ids = tokenizer(kept, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    num_tokens = sum(len(row) + 2 for row in ids)
    sequences, metrics = read_shards(corpus, "wanjuan-cc"), corpus.manifest.metrics
    assert len(corpus.manifest.components) > 1
    assert sequences.size + metrics["num_tail_tokens"]["wanjuan-cc"] == num_tokens
    assert metrics["num_tail_tokens"]["wanjuan-cc"] < LENGTH * len(corpus.manifest.components)
    assert metrics["repetitions"]["wanjuan-cc"] == 2_000 / len(sequences)
    assert metrics["bytes_per_token"] == sum(len(text.encode()) for text in kept) / num_tokens


def test_held_back_documents_are_not_trained_on(corpus):
    tokenizer = load_tokenizer(corpus.folder() / "tokenizer")
    for source in MIXTURE:
        held_back = [row["text"] for row in held_back_rows(corpus) if row["source"] == source]
        assert len(held_back) == corpus.manifest.metrics["num_held_back_documents"][source] == 8
        trained = tokenizer.decode(read_shards(corpus, source).reshape(-1).tolist())
        for text in held_back:
            assert text in texts()[source]
            assert text.split(": ")[0] + ":" not in trained


def test_a_long_document_is_held_back_whole(make_corpus):
    books = [f"Book {number}. " + f"A sentence of book {number}. " * 3_000 for number in range(3)]
    config = make_config(mixture={"redpajama-books": 100.0}, group_bytes=1_000_000)
    corpus = make_corpus(config, {"redpajama-books": books})
    (row,) = held_back_rows(corpus)
    assert row["category"] == "books"
    assert len(row["text"]) == 20_000
    tokenizer = load_tokenizer(corpus.folder() / "tokenizer")
    trained = tokenizer.decode(read_shards(corpus, "redpajama-books").reshape(-1).tolist())
    assert row["text"][:30].split(".")[1] not in trained


@pytest.mark.parametrize(("num_documents", "num_held_back"), [(1, 0), (2, 1), (15, 1), (16, 8)])
def test_small_sources_hold_back_fewer(make_corpus, num_documents, num_held_back):
    corpus = make_corpus(only_web(num_tokens=LENGTH), {"wanjuan-cc": numbered("web", num_documents)})
    assert corpus.manifest.metrics["num_held_back_documents"] == {"wanjuan-cc": num_held_back}


def test_a_source_too_small_repeats_is_refused_or_shrinks_the_whole(make_corpus, tmp_path):
    small = texts(**{"redpajama-wiki": numbered("wiki", 2)})
    with pytest.raises(DataError, match=r"redpajama-wiki.*20.*data\.num_tokens to about \d+"):
        make_corpus(make_config(max_repetitions=1.5), small, tmp_path)
    assert not list((tmp_path / "prepare").glob("*/manifest.json"))
    repeated = make_corpus(make_config(max_repetitions=20), small, tmp_path)
    on_disk = len(read_shards(repeated, "redpajama-wiki"))
    assert repeated.manifest.metrics["repetitions"]["redpajama-wiki"] == 20 / on_disk > 1.5
    shrunk = make_corpus(make_config(max_repetitions=1.5, on_shortage="shrink"), small, tmp_path)
    assert shrunk.manifest.metrics["repetitions"]["redpajama-wiki"] <= 1.5
    assert 0 < shrunk.manifest.metrics["num_sequences"] < 100
    ratio = shrunk.manifest.metrics["token_ratio"]["redpajama-wiki"]
    assert abs(ratio - 0.2) < 1 / shrunk.manifest.metrics["num_sequences"]


@pytest.mark.parametrize("empty", [[], ["   same text   "]])
def test_a_source_without_documents_is_named(make_corpus, empty):
    mixed = texts(**{"github-code": empty, "wanjuan-cc": [*numbered("wanjuan-cc", 60), *empty]})
    with pytest.raises(DataError, match=r"data\.mixture\.github-code"):
        make_corpus(make_config(), mixed)


def test_an_unknown_source_is_refused_before_anything_is_written(make_corpus, tmp_path):
    with pytest.raises(DataError, match="the-pile"):
        make_corpus(make_config(mixture={"the-pile": 100.0}), {"the-pile": []}, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_the_same_configuration_gives_the_same_bytes(corpus, make_corpus):
    backwards = make_config(mixture=dict(reversed(MIXTURE.items())))
    assert digests(make_corpus(backwards, texts())) == digests(corpus)
    assert digests(make_corpus(make_config(), texts(), map_jobs=Threads(2))) == digests(corpus)
    other = digests(make_corpus(make_config(seed=18), texts()))
    assert other["held_back.jsonl"] != digests(corpus)["held_back.jsonl"]


def test_changed_ratios_use_the_tokens_that_are_there(corpus, make_corpus):
    root = Path(corpus.store.root.removeprefix("file://"))
    before = {manifest.name for manifest in corpus.store.manifests()}
    changed = make_config(mixture={"wanjuan-cc": 60.0, "redpajama-wiki": 20.0, "github-code": 20.0})
    again = make_corpus(changed, texts(), root)
    assert {manifest.name for manifest in corpus.store.manifests()} - before == {again.manifest.name}
    assert again.manifest.metrics["token_ratio"]["github-code"] == 0.2


def test_files_are_read_side_by_side_and_only_as_far_as_needed(make_corpus, tmp_path):
    class Endless:
        def __iter__(self):
            number = 0
            while True:
                yield f"page {number} " * 50
                number += 1

    config = only_web(near_duplicates=False, group_bytes=20_000, vocab_size=300, collected_bytes_per_token=6)
    corpus = make_corpus(config, {"wanjuan-cc": [numbered("a", 400), numbered("b", 400)]}, tmp_path)
    documents = [found for found in corpus.store.manifests() if found.kind == "documents"]
    assert len(documents) == 1
    assert not documents[0].metrics["is_last"]
    longer = make_corpus(
        config.model_copy(update={"num_tokens": 400 * LENGTH}),
        {"wanjuan-cc": [numbered("a", 400), numbered("b", 400)]},
        tmp_path,
    )
    assert documents[0].name in {found.name for found in longer.store.manifests()}
    assert sum(found.kind == "documents" for found in longer.store.manifests()) == 4


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(corpus, make_corpus, tmp_path):
    """The third tokenized group fails, as a killed process would; those before it are kept."""
    calls = []

    def failing(function, jobs, on_done):
        def call(job):
            calls.append(job)
            if function.__name__ == "tokenize_group" and len(calls) > 5:
                raise InterruptedError
            return function(job)

        return map_inline(call, jobs, on_done)

    with pytest.raises(InterruptedError):
        make_corpus(make_config(), texts(), tmp_path, map_jobs=failing)
    made = {found.name: found.attempt for found in Store(str(tmp_path)).manifests()}
    assert 0 < sum(name.startswith("tokens/") for name in made) < len(corpus.manifest.components)
    resumed = make_corpus(make_config(), texts(), tmp_path)
    assert digests(resumed) == digests(corpus)
    assert made.items() <= {found.name: found.attempt for found in resumed.store.manifests()}.items()


def test_rows_that_cannot_be_read_are_counted_or_stop_a_strict_build(make_corpus):
    problem = Problem("not UTF-8", "web.jsonl, line 3", "b'\\xff'")
    broken = texts(**{"wanjuan-cc": [problem, *numbered("wanjuan-cc", 60)]})
    corpus = make_corpus(make_config(), broken)
    assert corpus.manifest.metrics["dropped"]["wanjuan-cc"] == {"not UTF-8": 1}
    report = json.loads((corpus.folder() / "report.json").read_text())
    (sample,) = report["sources"]["wanjuan-cc"]["dropped"]["not UTF-8"]["samples"]
    assert "web.jsonl, line 3" in sample
    with pytest.raises(DataError, match=r"web\.jsonl, line 3"):
        make_corpus(make_config(strict=True), broken)
    with pytest.raises(DataError, match=r"web\.jsonl, line 3"):
        make_corpus(make_config(strict=True), broken, corpus.store.local_root)


def test_duplicates_go_to_the_first_source_and_are_counted(make_corpus):
    shared, near = numbered("shared", 5), "The quick brown fox jumps over the lazy dog again and again. " * 20
    mixed = texts(
        **{
            "wanjuan-cc": [*numbered("wanjuan-cc", 60), *shared, near],
            "github-code": [*shared, *numbered("github-code", 60), near + "The end."],
        }
    )
    metrics = make_corpus(make_config(collected_bytes_per_token=1_000), mixed).manifest.metrics
    assert metrics["dropped"]["github-code"] == {"exact duplicate": 5, "near duplicate": 1}
    assert metrics["dropped"]["wanjuan-cc"] == {}
    without = make_corpus(
        make_config(near_duplicates=False, collected_bytes_per_token=1_000), mixed
    ).manifest.metrics
    assert without["dropped"]["github-code"] == {"exact duplicate": 5}


def test_planted_evaluation_items_are_found(make_corpus, tmp_path):
    question = "A baker sells forty two loaves on Monday and half as many on Tuesday; how many loaves in all?"
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps({"question": question, "answer": "63"}) + "\n")
    planted = f"Some page. {question.upper()} Read on for the answer."
    config = make_config(decontaminate="folder", collected_bytes_per_token=1_000)
    mixed = texts(**{"wanjuan-cc": [*numbered("wanjuan-cc", 60), planted]})
    corpus = make_corpus(config, mixed, evaluation_data=str(tmp_path))
    assert corpus.manifest.metrics["dropped"]["wanjuan-cc"] == {"contaminated": 1}
    report = json.loads((corpus.folder() / "report.json").read_text())
    assert "gsm8k" in report["sources"]["wanjuan-cc"]["dropped"]["contaminated"]["samples"][0]
    with pytest.raises(DataError, match="evaluation_data"):
        make_corpus(config, mixed)


def test_progress_ends_at_all_bytes(corpus, heard):
    for stage in ("collect", "tokenize"):
        steps = [progress for progress in heard if progress.stage == stage]
        assert [step.completed for step in steps] == sorted(step.completed for step in steps)
        assert steps[-1].completed == steps[-1].total > 0


def test_a_corpus_on_an_object_store_is_read_from_there(corpus, make_corpus):
    remote = make_corpus(make_config(), texts(), "memory://corpora")
    assert remote.uri.startswith("memory://")
    drawn = [
        [row["input_ids"].tolist() for row in open_mixture(one.folder(), one.store.place("tokens"), 2)]
        for one in (corpus, remote)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 100
    report = verify_corpus(remote.store, remote.manifest, lambda *_: None)
    assert report == verify_corpus(corpus.store, corpus.manifest, lambda *_: None)


def test_a_sentencepiece_tokenizer_can_be_given(make_corpus):
    folder = SHARED / "tokenizers" / "mistral_v1"
    if not folder.is_dir():
        pytest.skip("shared test data absent")
    corpus = make_corpus(make_config(), texts(), tokenizer=GivenTokenizer(str(folder), "0" * 64))
    assert corpus.manifest.metrics["vocab_size"] == 32_000
    text = load_tokenizer(folder).decode(read_shards(corpus, "github-code")[0].tolist())
    assert text.startswith("<s> github-code document")


def test_processes_make_the_same_corpus(tmp_path):
    """Fresh processes, a folder of files, two groups in flight."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "web.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in numbered("web", 200)))
    found = []
    for name, map_jobs in (("inline", map_inline), ("processes", Processes(2))):
        store = Store(str(tmp_path / name))
        inputs = CorpusInputs(open_corpora("folder", str(folder)))
        spec = ArtifactSpec("prepare", 1, only_web().model_dump(mode="json"))
        found.append(
            store.produce(
                spec,
                lambda workspace, s=store, i=inputs, m=map_jobs: build_corpus(
                    only_web(), i, s, workspace, m, ignore_progress
                ),
            )
        )
    assert digests(found[0]) == digests(found[1])


@pytest.fixture
def folder_with_a_copy(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in numbered("web", 200))
    for name in ("web_1.jsonl", "web_2.jsonl"):
        (folder / name).write_text(lines)
    return folder


def build_from_folder(folder: Path, root: Path, config: DataConfig) -> Artifact:
    store = Store(str(root))
    inputs = CorpusInputs(open_corpora("folder", str(folder)))
    return store.produce(
        ArtifactSpec("prepare", 1, config.model_dump(mode="json")),
        lambda workspace: build_corpus(config, inputs, store, workspace, map_inline, ignore_progress),
    )


def test_the_report_names_stand_ins_and_files_left_out(folder_with_a_copy, tmp_path):
    config = make_config(mixture={"wanjuan-cc": 75.0, "redpajama-wiki": 25.0}, group_bytes=100_000)
    corpus = build_from_folder(folder_with_a_copy, tmp_path / "root", config)
    metrics = corpus.manifest.metrics
    assert list(metrics["files"].values()) == ["duplicate file"]
    assert metrics["substitute_ratio"] == 0.25
    page = corpus_markdown(json.loads((corpus.folder() / "report.json").read_text()))
    assert "25.00% of the tokens come from substitutes" in page
    assert "| web_2.jsonl" in page
    assert "| duplicate file |" in page
    with pytest.raises(DataError, match="duplicate file"):
        build_from_folder(folder_with_a_copy, tmp_path / "strict", config.model_copy(update={"strict": True}))
