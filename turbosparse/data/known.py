"""What an earlier corpus has read, cleaned and tokenized: a retraining does it for the rest.

Known groups claim documents before new ones, in the order they always did: so what was selected of them
stays, and with it their tokens. What was held back stays held back, even where its file is gone.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from turbosparse.artifacts import Manifest, Store
from turbosparse.artifacts.lineage import spec_of
from turbosparse.data.collect import Group
from turbosparse.data.layout import GROUPS_NAME
from turbosparse.data.selection import Selection


def read_groups(store: Store, corpus: Manifest) -> list[Group]:
    """Returns a corpus's groups in the order in which they claim documents."""
    rows = json.loads(store.file(corpus, GROUPS_NAME).read_text(encoding="utf-8"))
    return [
        Group(
            source=row["source"],
            spec=spec_of(store, row["documents"]),
            manifest=store.load(row["documents"]).manifest,
            held_back=tuple(row["held_back"]),
        )
        for row in rows
    ]


def write_groups(
    file: Path, groups: Sequence[Group], selections: Sequence[Selection], order: Sequence[int]
) -> None:
    """Writes what `read_groups` reads.

    Args:
        file: receives it.
        groups: the corpus's groups.
        selections: what is held back of each.
        order: numbers of the groups in the order in which they claim documents.
    """
    rows = [
        {
            "source": groups[number].source,
            "documents": groups[number].spec.name,
            "held_back": selections[number].held_back.tolist(),
        }
        for number in order
    ]
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def order_of_claims(groups: Sequence[Group], known: Sequence[Group]) -> list[int]:
    """Returns the numbers of the groups in the order in which they claim documents: known ones first."""
    turns = {(group.source, group.spec.name): turn for turn, group in enumerate(known)}
    return sorted(
        range(len(groups)),
        key=lambda number: (
            turns.get((groups[number].source, groups[number].spec.name), len(known)),
            number,
        ),
    )
