"""What a corpus is made of, source by source: the report that goes with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from turbosparse.artifacts import Manifest, Store
from turbosparse.config.data import DataConfig
from turbosparse.data.collect import Group
from turbosparse.data.corpora import Corpora
from turbosparse.data.selection import Selection, read_rows
from turbosparse.data.sources import source_named
from turbosparse.data.tally import SAMPLES_PER_REASON, Tally

SUMMED = ("num_documents", "num_bytes", "num_tokens", "num_sequences", "num_tail_tokens")


def corpus_report(
    config: DataConfig,
    epoch: Mapping[str, int],
    groups: Sequence[Group],
    selections: Sequence[Selection],
    tokens: Sequence[Manifest],
    corpora: Corpora,
    store: Store,
) -> dict[str, Any]:
    """Returns, for each source: what stands behind it, wanted and realised share, text and tokens.

    `num_*` count what is on disk for training; `dropped` counts what is not, by reason, with samples;
    `files` are those that were left out whole or hold nothing.
    """
    num_drawn = sum(epoch.values())
    described, substitutes = corpora.describe(epoch), corpora.substitutes(epoch)
    totals = _totals(groups, tokens)
    dropped = _dropped(groups, selections, store)
    held_back = Counter[str]()
    for group, selection in zip(groups, selections, strict=True):
        held_back[group.source] += len(selection.held_back)
    return {
        "sequence_length": config.sequence_length,
        "files": [asdict(problem) for problem in corpora.problems(epoch)],
        "sources": {
            source: {
                "category": source_named(source).category,
                "stands_behind": described[source],
                "substitute": substitutes.get(source),
                "wanted_ratio": config.mixture[source] / 100,
                "realised_ratio": count / num_drawn,
                "num_drawn_sequences": count,
                "repetitions": count / totals[source]["num_sequences"] if count else 0.0,
                **totals[source],
                "bytes_per_token": _ratio(totals[source]["num_bytes"], totals[source]["num_tokens"]),
                "num_held_back_documents": held_back[source],
                "dropped": dropped[source].as_dict(),
            }
            for source, count in epoch.items()
        },
    }


def _totals(groups: Sequence[Group], tokens: Sequence[Manifest]) -> dict[str, Counter[str]]:
    totals: dict[str, Counter[str]] = {}
    for group, manifest in zip(groups, tokens, strict=True):
        total = totals.setdefault(group.source, Counter(dict.fromkeys(SUMMED, 0)))
        total.update({name: manifest.metrics[name] for name in SUMMED})
    return totals


def _dropped(groups: Sequence[Group], selections: Sequence[Selection], store: Store) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for group, selection in zip(groups, selections, strict=True):
        tally = tallies.setdefault(group.source, Tally())
        tally.merge(Tally.from_dict(group.manifest.metrics["dropped"]))
        for reason, rows in (
            ("exact duplicate", selection.exact_duplicates),
            ("near duplicate", selection.near_duplicates),
            ("no longer there", selection.gone),
        ):
            # One group's samples are enough: each costs a look into its text.
            is_first = len(rows) and reason not in tally.counts
            shown = rows[:SAMPLES_PER_REASON] if is_first else rows[:0]
            texts = read_rows(store.load(group.spec.name).folder(), shown) if is_first else []
            tally.count(reason, len(rows), texts)
    return tallies


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
