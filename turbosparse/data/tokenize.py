"""Tokenizer and token groups: one coarse job for each group of documents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turbosparse.artifacts import ArtifactSpec, Manifest, Store, Workspace
from turbosparse.config.data import TABLE_4_PERCENT, DataConfig
from turbosparse.data.collect import Group
from turbosparse.data.encode import Encoder
from turbosparse.data.groups import read_group
from turbosparse.data.layout import TOKENIZER_NAME
from turbosparse.data.selection import Selection
from turbosparse.data.tokenizer import load_tokenizer, num_padding_entries, train_tokenizer
from turbosparse.data.tokens import write_tokens
from turbosparse.progress import OnProgress, Progress
from turbosparse.workers import MapJobs

TOKENIZER_VERSION = 1
TOKENS_VERSION = 1
TOKENIZER_TRAINING_BYTES = 100_000_000
# A source that Table 4 does not have (FineWeb in the 300M study) is taken for web text.
WEIGHT_OF_OTHERS_PERCENT = TABLE_4_PERCENT["wanjuan-cc"]


@dataclass(frozen=True)
class GivenTokenizer:
    """A Hugging Face tokenizer folder, and the digest of its files."""

    folder: str
    digest: str


@dataclass(frozen=True)
class TokenizeJob:
    """One group of documents to tokenize."""

    root: str
    spec: ArtifactSpec
    left_out: NDArray[np.int64]


def make_tokenizer(
    config: DataConfig,
    given: GivenTokenizer | ArtifactSpec | None,
    groups: Sequence[Group],
    selections: Sequence[Selection],
    store: Store,
) -> ArtifactSpec:
    """Puts the tokenizer into the store, if it is not there: the given one, or one trained on each source's
    first group.

    The ratios that training samples by are Table 4's, whatever the mixture says: a changed mixture
    keeps the tokenizer, and with it every group that is tokenized already.

    Raises:
        DataError: an unusable tokenizer folder, or a vocabulary too small to be one.
    """
    if isinstance(given, ArtifactSpec):
        return given
    if given is not None:
        spec = ArtifactSpec("tokenizer", TOKENIZER_VERSION, {}, {}, {"folder": given.digest})
        store.produce(spec, partial(_copy_tokenizer, given.folder))
        return spec
    first: dict[str, int] = {}
    for number, group in enumerate(groups):
        first.setdefault(group.source, number)
    parents = {source: groups[number].spec for source, number in first.items()}
    left_out = {source: selections[number].digest for source, number in first.items()}
    tree = {"vocab_size": config.vocab_size, "left_out": left_out}
    spec = ArtifactSpec("tokenizer", TOKENIZER_VERSION, tree, parents)
    chosen = {source: (groups[number], selections[number]) for source, number in first.items()}
    store.produce(spec, partial(_train_tokenizer, config, chosen, store))
    return spec


def tokenize_documents(
    config: DataConfig,
    groups: Sequence[Group],
    selections: Sequence[Selection],
    tokenizer: ArtifactSpec,
    store: Store,
    map_jobs: MapJobs,
    on_progress: OnProgress,
) -> list[Manifest]:
    """Returns one artifact of token shards for each group, those found in the store included."""
    jobs = [
        TokenizeJob(store.root, tokens_spec(config, group, selection, tokenizer), selection.left_out)
        for group, selection in zip(groups, selections, strict=True)
    ]
    total, done = sum(group.manifest.metrics["num_bytes"] for group in groups), 0

    def report(manifest: Manifest) -> None:
        nonlocal done
        done += manifest.metrics["num_bytes"]
        on_progress(Progress("tokenize", min(done, total), total, "bytes"))

    made = map_jobs(tokenize_group, jobs, report)
    on_progress(Progress("tokenize", total, total, "bytes"))
    return made


def tokens_spec(
    config: DataConfig, group: Group, selection: Selection, tokenizer: ArtifactSpec
) -> ArtifactSpec:
    """Returns what decides a token group's content; ratios do not."""
    return ArtifactSpec(
        "tokens",
        TOKENS_VERSION,
        {"sequence_length": config.sequence_length},
        {"documents": group.spec, "tokenizer": tokenizer},
        {"left_out": selection.digest},
    )


def tokenize_group(job: TokenizeJob) -> Manifest:
    """Makes one token group, or finds it in the store."""
    store = Store(job.root)

    def build(workspace: Workspace) -> dict[str, Any]:
        documents = store.load(job.spec.parents["documents"].name).folder()
        encoder = _encoder(job.root, job.spec.parents["tokenizer"].name)
        length = job.spec.config["sequence_length"]
        return write_tokens(documents, job.left_out, encoder, length, workspace.folder)

    return store.produce(job.spec, build).manifest


@lru_cache(maxsize=1)
def _encoder(root: str, name: str) -> Encoder:
    return Encoder(load_tokenizer(Store(root).load(name).folder() / TOKENIZER_NAME))


def _copy_tokenizer(folder: str, workspace: Workspace) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(workspace.folder / TOKENIZER_NAME)
    return {"vocab_size": len(tokenizer), "num_padding_entries": num_padding_entries(tokenizer)}


def _train_tokenizer(
    config: DataConfig, chosen: dict[str, tuple[Group, Selection]], store: Store, workspace: Workspace
) -> dict[str, Any]:
    weights = {source: TABLE_4_PERCENT.get(source, WEIGHT_OF_OTHERS_PERCENT) for source in chosen}
    texts = (
        text
        for source, (group, selection) in chosen.items()
        for text in _sample(
            store.load(group.spec.name).folder(),
            set(selection.left_out.tolist()),
            int(TOKENIZER_TRAINING_BYTES * weights[source] / sum(weights.values())),
        )
    )
    tokenizer = train_tokenizer(texts, config.vocab_size)
    tokenizer.save_pretrained(workspace.folder / TOKENIZER_NAME)
    return {"vocab_size": len(tokenizer), "num_padding_entries": num_padding_entries(tokenizer)}


def _sample(folder: Path, left_out: set[int], max_bytes: int) -> Iterator[str]:
    for number, text in read_group(folder):
        if max_bytes <= 0:
            return
        if number not in left_out:
            max_bytes -= len(text.encode())
            yield text
