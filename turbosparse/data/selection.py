"""Which documents of all groups are trained on: no duplicates, and none that is held back."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from turbosparse.data.cleaning.duplicates import find_duplicates
from turbosparse.data.groups import read_group

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What one group does not give to training, as ascending row numbers."""

    exact_duplicates: Rows
    near_duplicates: Rows
    held_back: Rows

    @property
    def duplicates(self) -> Rows:
        """Exact and near ones."""
        return np.union1d(self.exact_duplicates, self.near_duplicates)

    @property
    def left_out(self) -> Rows:
        """All that training never sees."""
        return np.union1d(self.duplicates, self.held_back)

    @property
    def digest(self) -> str:
        """The sha256 of what is left out."""
        return hashlib.sha256(self.left_out.astype("<i8").tobytes()).hexdigest()


def select_documents(
    sources: Sequence[str], signatures: Sequence[Path], num_held_back: int, seed: int
) -> list[Selection]:
    """Decides for each group what is left out.

    A document goes to the first group that has it: later copies and near-copies are dropped, so
    that groups added at the end change nothing before them. Held back are, of the first group of
    each source that keeps any document, those with the smallest seeded hash.

    Args:
        sources: each group's source.
        signatures: each group's signatures.
        num_held_back: documents per source; about a tenth of a source that has fewer than twice as
            many, at least one where there are two.
        seed: chooses the documents held back.
    """
    selections, served = [], set[str]()
    for source, file, found in zip(sources, signatures, find_duplicates(signatures), strict=True):
        kept = np.setdiff1d(np.arange(_num_rows(file)), np.union1d(found.exact, found.near))
        wanted = num_held_back if source not in served and len(kept) else 0
        served.update([source] if wanted else [])
        selections.append(Selection(found.exact, found.near, _held_back(file, kept, wanted, seed)))
    return selections


def read_rows(folder: Path, rows: Rows) -> list[str]:
    """Returns the texts of these rows of a group, in their order."""
    wanted = set(rows.tolist())
    if not wanted:
        return []
    return [text for number, text in read_group(folder) if number in wanted]


def _held_back(signatures: Path, kept: Rows, wanted: int, seed: int) -> Rows:
    if len(kept) < 2 * wanted:
        wanted = max(len(kept) // 10, 1) if len(kept) > 1 else 0
    fingerprints = np.load(signatures, mmap_mode="r", allow_pickle=False)[kept, 0]
    # Times an odd number is a bijection of 64-bit numbers: each seed gives another order.
    factor = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest()) | 1
    order = np.argsort(fingerprints * np.uint64(factor), kind="stable")
    return np.sort(kept[order[:wanted]])


def _num_rows(signatures: Path) -> int:
    return len(np.load(signatures, mmap_mode="r", allow_pickle=False))
