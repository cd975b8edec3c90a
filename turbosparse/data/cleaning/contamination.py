"""Documents that contain evaluation items, found by the words that both have in a row.

Reference:
    13 words in a row as in Brown et al., Language Models are Few-Shot Learners (2020), Appendix C.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from turbosparse.data.cleaning.evaluation_texts import digest_of_texts
from turbosparse.data.cleaning.words import ngram_hashes, ngram_hashes_at, word_hashes

Hashes = NDArray[np.uint64]

_NONE = np.empty(0, np.uint64)
# At most one position in 16 of an unrelated document then passes the sieve.
_SIEVE_BITS_PER_HASH = 16


class Contamination:
    """Knows the evaluation sets' n-grams, and tells whether a document contains one.

    A text of `ngram_words` words or more is recognised by any `ngram_words` of them in a row, a
    shorter one of at least `min_words` words as a whole. Still shorter texts can't be told from
    chance: nothing matches them, and `num_too_short` counts them. At 8 words, 37,000 texts of 14 sets
    matched none of 1,563 pages, articles and books, nor 150 MB of software and its documentation; of
    1,000 conversations one matched by chance ("an apple a day keeps the doctor away").

    Workers can be sent it: it can be pickled, and takes 20 to 22 bytes for each n-gram.
    """

    tasks: list[str]
    """The evaluation sets, in the order of precedence."""
    num_too_short: dict[str, int]
    """Texts of fewer than `min_words` words, by task."""
    digest: str
    """The sha256 of the texts and the two sizes."""

    def __init__(self, texts: Mapping[str, Sequence[str]], ngram_words: int = 13, min_words: int = 8) -> None:
        assert 1 <= min_words <= ngram_words
        self.tasks = list(texts)
        self.digest = _digest(texts, ngram_words, min_words)
        self._min_words = min_words
        words = [word_hashes(item) for items in texts.values() for item in items]
        num_words = np.array([len(item) for item in words], np.int64)
        owners = np.repeat(np.arange(len(texts), dtype=np.uint16), [len(items) for items in texts.values()])
        num_too_short = np.bincount(owners[num_words < min_words], minlength=len(texts)).tolist()
        self.num_too_short = dict(zip(texts, num_too_short, strict=True))

        windows = _windows(num_words, ngram_words, min_words)
        self._sizes = sorted(windows)
        all_words = np.concatenate([_NONE, *words])
        hashes = [_NONE, *(ngram_hashes_at(all_words, windows[size], size) for size in self._sizes)]
        positions = np.concatenate([np.empty(0, np.int64), *(windows[size] for size in self._sizes)])
        owners = np.repeat(owners, num_words)[positions]
        # Of equal hashes, the first task's stays.
        order = np.argsort(owners, kind="stable")
        self._hashes, first = np.unique(np.concatenate(hashes)[order], return_index=True)
        self._owners = owners[order][first]
        self._prefixes = np.unique(ngram_hashes_at(all_words, positions, min_words))
        self._sieve = _make_sieve(self._prefixes)

    def task_in(self, words: Hashes) -> str | None:
        """Returns the first of the tasks of which a document contains an n-gram; None for none.

        Args:
            words: the document's word hashes, [num_words].
        """
        prefixes = ngram_hashes(words, self._min_words)
        positions = np.flatnonzero(_may_have(self._sieve, prefixes))
        positions = positions[_find(self._prefixes, prefixes[positions])[1]]
        if not len(positions):
            return None
        owners = [
            self._owners_of(ngram_hashes_at(words, positions[positions <= len(words) - size], size))
            for size in self._sizes
        ]
        found = np.concatenate(owners)
        return self.tasks[found.min()] if len(found) else None

    def save(self, file: Path) -> None:
        """Writes everything to an `.npz` file."""
        about = {
            "tasks": self.tasks,
            "num_too_short": self.num_too_short,
            "digest": self.digest,
            "min_words": self._min_words,
            "sizes": self._sizes,
        }
        with file.open("wb") as stream:
            np.savez(
                stream,
                about=np.array(json.dumps(about)),
                hashes=self._hashes,
                owners=self._owners,
                prefixes=self._prefixes,
            )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Returns what `save` has written."""
        loaded = cls.__new__(cls)
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            loaded._hashes, loaded._owners = arrays["hashes"], arrays["owners"]
            loaded._prefixes = arrays["prefixes"]
        loaded._sieve = _make_sieve(loaded._prefixes)
        loaded.tasks, loaded.num_too_short = about["tasks"], about["num_too_short"]
        loaded.digest, loaded._min_words, loaded._sizes = about["digest"], about["min_words"], about["sizes"]
        return loaded

    def _owners_of(self, hashes: Hashes) -> NDArray[np.uint16]:
        places, is_there = _find(self._hashes, hashes)
        return self._owners[places[is_there]]


def _windows(num_words: NDArray[np.int64], ngram_words: int, min_words: int) -> dict[int, NDArray[np.int64]]:
    """Returns, by size, where n-grams begin in texts that are laid end to end.

    Args:
        num_words: of each text, [num_texts].
        ngram_words: the size taken at every place of texts that have as many words.
        min_words: shorter texts have none; those between are one n-gram of all their words.
    """
    ends = np.cumsum(num_words)
    num_words_left = np.repeat(ends, num_words) - np.arange(num_words.sum())
    windows = {size: (ends - size)[num_words == size] for size in range(min_words, ngram_words)}
    windows[ngram_words] = np.flatnonzero(num_words_left >= ngram_words)
    return {size: positions for size, positions in windows.items() if len(positions)}


def _find(table: Hashes, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns where each hash would be in the ascending table, and whether it is there."""
    # Without the last entry, no place is beyond the end.
    places = np.searchsorted(table[:-1], hashes)
    return places, table[places] == hashes


def _digest(texts: Mapping[str, Sequence[str]], ngram_words: int, min_words: int) -> str:
    return hashlib.sha256(f"{digest_of_texts(texts)} {ngram_words} {min_words}".encode()).hexdigest()


def _make_sieve(hashes: Hashes) -> NDArray[np.uint8]:
    """Returns a table of bits, [2^k / 8] bytes, in which the bit of each hash is set."""
    num_bits = 1 << max(_SIEVE_BITS_PER_HASH * len(hashes), 8).bit_length()
    sieve = np.zeros(num_bits // 8, np.uint8)
    byte, bit = _place(sieve, hashes)
    np.bitwise_or.at(sieve, byte, bit)
    return sieve


def _may_have(sieve: NDArray[np.uint8], hashes: Hashes) -> NDArray[np.bool_]:
    """Returns whether each hash's bit is set: always for one that was put in, rarely for another."""
    byte, bit = _place(sieve, hashes)
    return (sieve[byte] & bit) != 0


def _place(sieve: NDArray[np.uint8], hashes: Hashes) -> tuple[Hashes, NDArray[np.uint8]]:
    byte = hashes >> np.uint64(65 - len(sieve).bit_length())
    bit = np.left_shift(1, (hashes & np.uint64(7)).astype(np.uint8), dtype=np.uint8)
    return byte, bit
