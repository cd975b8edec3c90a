"""Which documents of all groups are trained on: no duplicates, and none that is held back."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from turbosparse.data.cleaning.duplicates import NUM_FINGERPRINT_COLUMNS, Duplicates, find_duplicates
from turbosparse.data.cleaning.minhash import NO_BAND
from turbosparse.data.groups import read_group
from turbosparse.scratch import scratch_folder

Rows = NDArray[np.int64]
Table = NDArray[np.uint64]


@dataclass(frozen=True)
class Candidates:
    """A group's documents before anything is selected."""

    source: str
    signatures: Path
    held_back: tuple[int, ...] | None = None
    """Rows that an earlier corpus held back, ascending; None: that corpus did not have the group."""
    is_gone: bool = False
    """Whether only those count that other groups of the source have."""


@dataclass(frozen=True)
class Selection:
    """What one group does not give to training, as ascending row numbers."""

    exact_duplicates: Rows
    near_duplicates: Rows
    held_back: Rows
    gone: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows that no file has any longer."""

    @property
    def duplicates(self) -> Rows:
        """Exact and near ones."""
        return np.union1d(self.exact_duplicates, self.near_duplicates)

    @property
    def left_out(self) -> Rows:
        """All that training never sees."""
        return np.union1d(np.union1d(self.duplicates, self.gone), self.held_back)

    @property
    def digest(self) -> str:
        """The sha256 of what is left out."""
        return hashlib.sha256(self.left_out.astype("<i8").tobytes()).hexdigest()


def select_documents(groups: Sequence[Candidates], num_held_back: int, seed: int) -> list[Selection]:
    """Decides for each group what is left out.

    A document goes to the first group that has it: later copies and near-copies are dropped, so
    that groups added at the end change nothing before them. What an earlier corpus held back goes to
    nobody. Of a source that it held nothing back of, those with the smallest seeded hash are held back,
    of the first group that keeps any document.

    Args:
        groups: in the order in which they claim documents.
        num_held_back: documents per source; about a tenth of a source that has fewer than twice as
            many, at least one where there are two.
        seed: chooses the documents held back.
    """
    selections, served = [], {group.source for group in groups if group.held_back}
    for group, missing, found in zip(groups, *_claims(groups), strict=True):
        known = np.array(group.held_back or (), np.int64)
        exact, near, gone = (np.setdiff1d(rows, known) for rows in (found.exact, found.near, missing))
        out = np.concatenate([exact, near, gone])
        kept = np.setdiff1d(np.arange(_num_rows(group.signatures)), out)
        wanted = num_held_back if group.source not in served and len(kept) else 0
        served.update([group.source] if wanted else [])
        held_back = np.union1d(known, _held_back(group.signatures, kept, wanted, seed))
        selections.append(Selection(exact, near, held_back, gone))
    return selections


def read_rows(folder: Path, rows: Rows) -> list[str]:
    """Returns the texts of these rows of a group, in their order."""
    wanted = set(rows.tolist())
    if not wanted:
        return []
    return [text for number, text in read_group(folder) if number in wanted]


def _claims(groups: Sequence[Candidates]) -> tuple[list[Rows], list[Duplicates]]:
    """Returns for each group the rows that are gone, and the others that repeat what was claimed before."""
    gone = [_gone_rows(group, groups) for group in groups]
    if not any(group.held_back is not None for group in groups):
        return gone, find_duplicates([group.signatures for group in groups])
    with _tables(groups, gone) as tables:
        # The first table has what was held back: whoever else has it, has a copy.
        found = find_duplicates(tables)[1:]
    there = [
        np.setdiff1d(np.arange(_num_rows(group.signatures)), rows)
        for group, rows in zip(groups, gone, strict=True)
    ]
    return gone, [
        Duplicates(rows[repeats.exact], rows[repeats.near], {})
        for rows, repeats in zip(there, found, strict=True)
    ]


@contextmanager
def _tables(groups: Sequence[Candidates], gone: Sequence[Rows]) -> Iterator[list[Path]]:
    """Writes signatures of what was held back, and of groups without the rows that are gone."""
    width = max(_load(group.signatures).shape[1] for group in groups if not group.is_gone)
    held_back = [_load(group.signatures)[list(group.held_back or ())] for group in groups]
    with scratch_folder("turbosparse-selection-") as folder:
        tables = [folder / "held-back.npy"]
        _write(tables[0], np.concatenate([_as_wide(table, width) for table in held_back]))
        for number, (group, rows) in enumerate(zip(groups, gone, strict=True)):
            tables.append(group.signatures)
            if group.is_gone:
                tables[-1] = folder / f"{number}.npy"
                _write(tables[-1], _as_wide(np.delete(_load(group.signatures), rows, axis=0), width))
        yield tables


def _gone_rows(group: Candidates, groups: Sequence[Candidates]) -> Rows:
    """Returns the rows of a gone group that no other group of its source has."""
    if not group.is_gone:
        return np.empty(0, np.int64)
    others = [other for other in groups if other.source == group.source and not other.is_gone]
    there = np.concatenate([_fingerprints(other.signatures) for other in others])
    return np.flatnonzero(~np.isin(_fingerprints(group.signatures), there))


def _fingerprints(signatures: Path) -> NDArray[np.void]:
    """Returns each row's 128 bits as one value, [num_rows]."""
    columns = np.ascontiguousarray(_load(signatures)[:, :NUM_FINGERPRINT_COLUMNS])
    return columns.view(np.dtype((np.void, columns.dtype.itemsize * NUM_FINGERPRINT_COLUMNS))).reshape(-1)


def _as_wide(table: Table, width: int) -> Table:
    """Returns a table of signatures with this many columns; bands that were not computed match nothing."""
    missing = np.full((len(table), max(width - table.shape[1], 0)), NO_BAND, np.uint64)
    return np.concatenate([table[:, :width], missing], axis=1)


def _write(file: Path, table: Table) -> None:
    np.save(file, np.asfortranarray(table), allow_pickle=False)


def _held_back(signatures: Path, kept: Rows, wanted: int, seed: int) -> Rows:
    if len(kept) < 2 * wanted:
        wanted = max(len(kept) // 10, 1) if len(kept) > 1 else 0
    fingerprints = _load(signatures)[kept, 0]
    # Times an odd number is a bijection of 64-bit numbers: each seed gives another order.
    factor = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest()) | 1
    order = np.argsort(fingerprints * np.uint64(factor), kind="stable")
    return np.sort(kept[order[:wanted]])


def _num_rows(signatures: Path) -> int:
    return len(_load(signatures))


def _load(signatures: Path) -> Table:
    table: Table = np.load(signatures, mmap_mode="r", allow_pickle=False)
    return table
