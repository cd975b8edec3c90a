"""A corpus that goes on from an earlier one: only what is new is tokenized, and nothing else changes."""

import random
import re
from collections.abc import Callable

import pytest
from streaming.base.format import reader_from_json

from turbosparse.artifacts import Artifact, ArtifactSpec, Store
from turbosparse.artifacts.lineage import spec_of
from turbosparse.config.data import DataConfig
from turbosparse.config.quality import QualityConfig
from turbosparse.data.corpus import CorpusInputs, build_corpus
from turbosparse.data.held_back import read_documents
from turbosparse.data.shard_index import read_shards
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.data.verify import verify_corpus
from turbosparse.progress import Progress
from turbosparse.workers import map_inline

WEB, WIKI = "wanjuan-cc", "redpajama-wiki"
LENGTH = 16
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "juniper")
Files = dict[str, list[list[str]]]
Build = Callable[..., Artifact]


def document(number: int, num_words: int = 60) -> str:
    """Longer than a sequence, so that its beginning is never in what is cut off at a group's end."""
    return f"paper{number}x {' '.join(random.Random(number).choices(WORDS, k=num_words))}"


def documents(first: int, last: int) -> list[str]:
    return [document(number) for number in range(first, last)]


def make_config(**changes) -> DataConfig:
    values = {
        "corpora": "folder",
        "mixture": {WEB: 70.0, WIKI: 30.0},
        "num_tokens": 50 * LENGTH,
        "sequence_length": LENGTH,
        "vocab_size": 400,
        "num_held_back_documents": 3,
        "collected_bytes_per_token": 1_000,
        "near_duplicates": False,
    }
    return DataConfig(**{**values, **changes})


@pytest.fixture
def build(tmp_path, list_corpora) -> Build:
    """Builds the corpus of some files, from nothing or from an earlier corpus, in one store."""
    store = Store(str(tmp_path))

    def build_one(files: Files, known: Artifact | None = None, **changes) -> Artifact:
        config, corpora = make_config(**changes), list_corpora(files)
        tokenizer = _tokenizer(store, known) if known else None
        inputs = CorpusInputs(corpora, tokenizer, known=known.manifest if known else None)
        parents = {"known": spec_of(store, known.manifest.name)} if known else {}
        digest = {"corpora": corpora.digest(files)}
        spec = ArtifactSpec("prepare", 1, config.model_dump(mode="json"), parents, digest)
        return store.produce(
            spec, lambda space: build_corpus(config, inputs, store, space, map_inline, _check_progress)
        )

    return build_one


def _check_progress(progress: Progress) -> None:
    assert 0 <= progress.completed <= progress.total
    assert progress.total > 0, "a share of nothing can't be shown"


def _tokenizer(store: Store, corpus: Artifact) -> ArtifactSpec:
    group = store.load(corpus.manifest.components[0]).manifest
    return spec_of(store, group.parents["tokenizer"])


def papers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"paper(\d+)x", text)]


def trained(corpus: Artifact) -> list[int]:
    """Every document on disk for training."""
    folder, root = corpus.folder(), corpus.store.local_root / "tokens"
    tokenizer, found = load_tokenizer(folder / "tokenizer"), []
    for name in corpus.manifest.components:
        manifest = corpus.store.load(name).manifest
        shards = root / manifest.identity / manifest.attempt / "shards"
        readers = [reader_from_json(str(shards), None, shard) for shard in read_shards(shards / "index.json")]
        rows = [reader[number]["tokens"] for reader in readers for number in range(len(reader))]
        ids = [token for row in rows for token in row.tolist()]
        found += papers(tokenizer.decode(ids))
    return found


def held_back(corpus: Artifact) -> set[int]:
    return {papers(held.text)[0] for held in read_documents(corpus.folder() / "held_back.jsonl")}


def tokenized_since(corpus: Artifact, earlier: Artifact) -> int:
    """Documents in the groups of tokens that the earlier corpus did not have."""
    names = set(corpus.manifest.components) - set(earlier.manifest.components)
    return sum(corpus.store.load(name).manifest.metrics["num_documents"] for name in names)


def files(web: list[list[str]]) -> Files:
    return {WEB: web, WIKI: [documents(500, 530)]}


@pytest.mark.parametrize("near_duplicates", [False, True])
@pytest.mark.parametrize(
    "web",
    [
        pytest.param([documents(0, 40), documents(40, 52)], id="a file more"),
        pytest.param([documents(40, 52), documents(0, 40)], id="a file before"),
        pytest.param([documents(0, 52)], id="a file that grew"),
        pytest.param([documents(0, 40), documents(30, 52)], id="a file with copies"),
    ],
)
def test_only_new_documents_are_tokenized(build, web, near_duplicates):
    first = build(files([documents(0, 40)]), near_duplicates=near_duplicates)
    second = build(files(web), first, near_duplicates=near_duplicates)
    assert set(first.manifest.components) <= set(second.manifest.components), "known tokens are used again"
    assert tokenized_since(second, first) == 12
    assert sorted(trained(second)) == sorted([*trained(first), *range(40, 52)])
    assert held_back(second) == held_back(first)


def test_a_shorter_epoch_reads_nothing_and_keeps_what_was_known(build):
    first = build(files([documents(0, 40)]))
    second = build(files([documents(0, 40)]), first, num_tokens=20 * LENGTH, collected_bytes_per_token=1)
    assert second.manifest.components == first.manifest.components
    assert held_back(second) == held_back(first)


def test_new_documents_are_drawn_before_what_was_known(build):
    first = build(files([documents(0, 40)]))
    second = build(files([documents(0, 40), documents(40, 52)]), first)
    own = [number for number in trained(second) if number < 500]
    assert set(own[:12]) == set(range(40, 52))
    assert verify_corpus(second.store, second.manifest, lambda done, total: None)


def test_documents_that_are_gone_are_trained_on_no_longer(build):
    first = build(files([documents(0, 20), documents(20, 40)]))
    second = build(files([documents(0, 10) + documents(60, 70)]), first)
    expected = (set(range(10)) | set(range(60, 70)) | set(range(500, 530))) - held_back(first)
    assert sorted(trained(second)) == sorted(expected)
    assert second.manifest.metrics["dropped"][WEB]["no longer there"] > 0


def test_what_was_held_back_stays_so_wherever_it_turns_up(build):
    first = build(files([documents(0, 40)]))
    moved = {WEB: [documents(60, 80)], WIKI: [documents(500, 530), documents(0, 40)]}
    second = build(moved, first)
    third = build(moved | {WEB: [documents(0, 40)]}, second)
    for later in (second, third):
        assert held_back(first) <= held_back(later)
        assert not held_back(first) & set(trained(later))


def test_other_rules_of_cleaning_apply_to_known_documents_too(build):
    rules = QualityConfig(min_words=None, max_words=50)
    short = [document(number, num_words=30) for number in range(900, 960)]
    first = build(files([documents(0, 40)]))
    changed = {WEB: [documents(0, 40), short[:30]], WIKI: [short[30:] + documents(500, 530)]}
    second = build(changed, first, quality=rules)
    assert all(number >= 900 for number in trained(second)), "none of the long ones passes"


@pytest.mark.parametrize("seed", range(6))
def test_any_history_ends_with_the_documents_of_a_corpus_from_nothing(build, seed):
    """Files come, grow, shrink, go and pass their documents on, over three generations."""
    chance = random.Random(seed)
    state = {WEB: [documents(0, 30)], WIKI: [documents(500, 520)]}
    corpora, fresh = [build(state)], iter(range(1_000, 2_000))
    for _ in range(3):
        state = _changed(state, chance, fresh)
        corpora.append(build(state, corpora[-1]))
    there = {papers(text)[0] for texts in state.values() for file in texts for text in file}
    last, before = corpora[-1], set[int]().union(*map(held_back, corpora[:-1]))
    learned = trained(last)
    assert len(learned) == len(set(learned)), "no document twice"
    assert set(learned) | held_back(last) == there | before
    assert not set(learned) & (held_back(last) | before)
    alone = build(state)
    assert set(trained(alone)) | held_back(alone) == there


def _changed(state: Files, chance: random.Random, fresh) -> Files:
    """Returns the files after a few changes, each source with some documents left."""
    changed = {source: [list(file) for file in texts] for source, texts in state.items()}
    for _ in range(4):
        source = chance.choice([WEB, WIKI])
        file = chance.choice(changed[source])
        match chance.choice(["file", "grow", "shrink", "copy", "move"]):
            case "file":
                changed[source].insert(chance.randrange(2), [document(next(fresh)) for _ in range(7)])
            case "grow":
                file.extend(document(next(fresh)) for _ in range(5))
            case "shrink" if len(file) > 12:
                del file[chance.randrange(6) : 6]
            case "copy":
                chance.choice(changed[chance.choice([WEB, WIKI])]).extend(file[:4])
            case "move" if len(file) > 12:
                other = WIKI if source == WEB else WEB
                changed[other].append(file[:5])
                del file[:5]
    return changed
