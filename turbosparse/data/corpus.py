"""The recovery corpus: collected, cleaned, tokenized by groups, and mixed at the wanted ratios."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from turbosparse.artifacts import ArtifactSpec, Manifest, Store, StoreReader, Workspace
from turbosparse.config.data import DataConfig
from turbosparse.data.collect import Group, collect_documents, refused_by_strict
from turbosparse.data.corpora import Corpora
from turbosparse.data.corpus_report import corpus_report
from turbosparse.data.decontaminate import publish_ngrams
from turbosparse.data.known import order_of_claims, read_groups, write_groups
from turbosparse.data.layout import (
    GROUPS_NAME,
    HELD_BACK_NAME,
    INDEX_NAME,
    MIXTURE_NAME,
    ORDER_NAME,
    REPORT_NAME,
    SHARDS_NAME,
    SIGNATURES_NAME,
    TOKENIZER_NAME,
)
from turbosparse.data.mixture import fit_epoch, interleave
from turbosparse.data.selection import Candidates, Selection, read_rows, select_documents
from turbosparse.data.shard_index import read_shards
from turbosparse.data.sources import SOURCES, source_named
from turbosparse.data.tokenize import GivenTokenizer, make_tokenizer, tokenize_documents
from turbosparse.errors import DataError
from turbosparse.progress import OnProgress
from turbosparse.workers import MapJobs

HELD_BACK_CHARACTERS = 20_000


@dataclass(frozen=True)
class CorpusInputs:
    """Where documents come from, and what they are held against."""

    corpora: Corpora
    tokenizer: GivenTokenizer | ArtifactSpec | None = None
    """A folder, or an artifact; None: one is trained on the documents."""
    evaluation_data: str | None = None
    """Folder of evaluation sets, for `decontaminate: folder`."""
    known: Manifest | None = None
    """An earlier corpus, whose groups are used again."""


def build_corpus(
    config: DataConfig,
    inputs: CorpusInputs,
    store: Store,
    workspace: Workspace,
    map_jobs: MapJobs,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Builds the training corpus in the workspace and returns its figures.

    Documents and tokens become artifacts of their own in `store`, group by group: an interrupted
    build goes on where it was, and changed ratios use the same tokens. The workspace gets
    `index.json` (all groups' shards, one MDS index relative to `<root>/tokens`), `mixture.json` (how
    many sequences each source gives to an epoch), `order.npy` (which source is drawn when),
    `groups.json`, `tokenizer/`, `held_back.jsonl` and `report.json`.

    Of an earlier corpus every group is used again: only documents that it did not have are tokenized.
    Documents whose file is gone are left out; those that it held back never reach training.

    Args:
        config: sources, proportions, lengths, cleaning.
        inputs: corpora, tokenizer, evaluation sets.
        store: receives the groups.
        workspace: empty folder of the corpus.
        map_jobs: who works on the groups.
        on_progress: hears of bytes collected and tokenized.

    Raises:
        DataError: an unknown source, one that can't be read or has no documents, one too small for
            its share (see `DataConfig.on_shortage`), an unusable tokenizer.

    Reference: Section 5 and Table 4 of the paper.
    """
    ratios = _ratios(config)
    for problem in inputs.corpora.problems(ratios) if config.strict else ():
        raise refused_by_strict(problem.reason, problem.where)
    evaluation = publish_ngrams(config, inputs.evaluation_data, store)
    known = read_groups(store, inputs.known) if inputs.known else []
    collected = collect_documents(
        config, ratios, inputs.corpora, evaluation, store, map_jobs, on_progress, known
    )
    groups, selections = _without_gone(collected, _select(config, ratios, collected, known, store))
    tokenizer = make_tokenizer(config, inputs.tokenizer, groups, selections, store)
    tokens = tokenize_documents(config, groups, selections, tokenizer, store, map_jobs, on_progress)

    folder = workspace.folder
    workspace.components.extend(dict.fromkeys(manifest.name for manifest in tokens))
    on_disk = _on_disk(ratios, groups, tokens)
    epoch = fit_epoch(config, ratios, on_disk)
    shutil.copytree(store.load(tokenizer.name).folder() / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    _write_held_back(folder / HELD_BACK_NAME, groups, selections, store)
    write_groups(folder / GROUPS_NAME, groups, selections, order_of_claims(groups, known))
    _write_index(folder / INDEX_NAME, merge_index(store, tokens))
    _write_mixture(folder / MIXTURE_NAME, config, epoch, on_disk)
    # Two seconds a million sequences: once here rather than on every rank at every start.
    np.save(folder / ORDER_NAME, interleave(list(epoch.values())).astype(np.uint8), allow_pickle=False)
    report = corpus_report(config, epoch, groups, selections, tokens, inputs.corpora, store)
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return _metrics(report, store.load(tokenizer.name).manifest)


def _ratios(config: DataConfig) -> dict[str, float]:
    """Fraction of the tokens by source, in the registry's order: the first that has a document keeps it."""
    for name in config.mixture:
        source_named(name)
    return {name: config.mixture[name] / 100 for name in SOURCES if name in config.mixture}


def _select(
    config: DataConfig,
    ratios: dict[str, float],
    groups: Sequence[Group],
    known: Sequence[Group],
    store: Store,
) -> list[Selection]:
    order = order_of_claims(groups, known)
    candidates = [
        Candidates(group.source, store.file(group.manifest, SIGNATURES_NAME), group.held_back, group.is_gone)
        for group in (groups[number] for number in order)
    ]
    found = select_documents(candidates, config.num_held_back_documents, config.seed)
    by_number = dict(zip(order, found, strict=True))
    selections = [by_number[number] for number in range(len(groups))]
    kept = dict.fromkeys(ratios, 0)
    for group, selection in zip(groups, selections, strict=True):
        kept[group.source] += group.manifest.metrics["num_documents"] - len(selection.left_out)
    for source, num_documents in kept.items():
        if not num_documents:
            raise DataError(
                f"data.mixture.{source}",
                "no documents",
                "at least one that no other source has and that passes the cleaning",
                "add text for this source, or take it out of the mixture",
            )
    return selections


def _without_gone(
    groups: Sequence[Group], selections: Sequence[Selection]
) -> tuple[list[Group], list[Selection]]:
    """Returns the groups but for those of gone files of which nothing is left, not even held back."""
    left = [
        (group, selection)
        for group, selection in zip(groups, selections, strict=True)
        if not group.is_gone
        or len(selection.held_back)
        or len(selection.left_out) < group.manifest.metrics["num_documents"]
    ]
    return [group for group, _ in left], [selection for _, selection in left]


def _on_disk(ratios: dict[str, float], groups: Sequence[Group], tokens: Sequence[Manifest]) -> dict[str, int]:
    num_sequences = dict.fromkeys(ratios, 0)
    for group, manifest in zip(groups, tokens, strict=True):
        num_sequences[group.source] += manifest.metrics["num_sequences"]
    return num_sequences


def _write_held_back(
    file: Path, groups: Sequence[Group], selections: Sequence[Selection], store: Store
) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for group, selection in zip(groups, selections, strict=True):
            if not len(selection.held_back):
                continue
            for text in read_rows(store.load(group.spec.name).folder(), selection.held_back):
                row = {
                    "source": group.source,
                    "category": source_named(group.source).category,
                    # A book is held back whole; its beginning is enough to measure on.
                    "text": text[:HELD_BACK_CHARACTERS],
                }
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def merge_index(store: StoreReader, tokens: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Returns the shards of all groups, in the groups' order, with paths relative to `<root>/tokens`."""
    shards = []
    for manifest in tokens:
        place = f"{manifest.identity}/{manifest.attempt}/{SHARDS_NAME}"
        for shard in read_shards(store.file(manifest, f"{SHARDS_NAME}/{INDEX_NAME}")):
            shard["raw_data"]["basename"] = f"{place}/{shard['raw_data']['basename']}"
            shards.append(shard)
    return shards


def _write_index(file: Path, shards: list[dict[str, Any]]) -> None:
    file.write_text(json.dumps({"version": 2, "shards": shards}), encoding="utf-8")


def _write_mixture(file: Path, config: DataConfig, epoch: dict[str, int], on_disk: dict[str, int]) -> None:
    content = {"sequence_length": config.sequence_length, "sequences": epoch, "on_disk": on_disk}
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _metrics(report: dict[str, Any], tokenizer: Manifest) -> dict[str, Any]:
    sources: dict[str, dict[str, Any]] = report["sources"]

    def by_source(name: str) -> dict[str, Any]:
        return {source: row[name] for source, row in sources.items()}

    num_sequences = sum(by_source("num_drawn_sequences").values())
    num_bytes, num_tokens = by_source("num_bytes"), by_source("num_tokens")
    return {
        "token_ratio": by_source("realised_ratio"),
        "num_tokens": num_sequences * report["sequence_length"],
        "num_sequences": num_sequences,
        "documents": by_source("num_documents"),
        "bytes": num_bytes,
        "bytes_per_token": sum(num_bytes.values()) / sum(num_tokens.values()),
        "repetitions": by_source("repetitions"),
        "num_tail_tokens": by_source("num_tail_tokens"),
        "num_held_back_documents": by_source("num_held_back_documents"),
        "dropped": {
            source: {reason: entry["count"] for reason, entry in row["dropped"].items()}
            for source, row in sources.items()
        },
        "files": {problem["where"]: problem["reason"] for problem in report["files"]},
        "stands_behind": by_source("stands_behind"),
        "substitute_ratio": sum(row["realised_ratio"] for row in sources.values() if row["substitute"]),
        **tokenizer.metrics,
    }
