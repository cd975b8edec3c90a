"""MinHash signatures, by which near duplicates are found without comparing documents pairwise.

A hash function's minimum over the shingles agrees between two documents with the probability of
their Jaccard similarity. A band of several minima agrees often for similar documents only.

Written here because datatrove and datasketch hash each shingle by a Python call, and datatrove splits
words with an NLP library; here a document costs some twenty numpy calls.

Reference:
    Broder, On the resemblance and containment of documents (1997). 14 bands of 8 over five-word
    shingles as in Penedo et al., The FineWeb Datasets (2024).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from turbosparse.data.cleaning.words import ngram_hashes

NO_BAND = 0
"""What a document without words has in every band. It agrees with nothing."""

# Shingles hashed at a time. Measured on long documents: 24 MB/s at 256, 76 MB/s at 4096 (1.8 MB).
_BLOCK_SHINGLES = 4096


@dataclass(frozen=True)
class MinHash:
    """Maps a document's words to one hash per band; documents that share a band are near duplicates."""

    num_bands: int = 14
    rows_per_band: int = 8
    """Minima that must all agree."""
    shingle_words: int = 5
    """Words in a row that make one element of the compared sets."""
    seed: int = 1
    """Chooses the hash functions; signatures of different seeds can't be compared."""

    @property
    def threshold(self) -> float:
        """Jaccard similarity at which the chance to be found rises steepest: 0.72, and 65% are found."""
        return (1 / self.num_bands) ** (1 / self.rows_per_band)

    def chance_to_be_found(self, similarity: float) -> float:
        """Returns the probability that two documents of this Jaccard similarity share a band."""
        return 1 - (1 - similarity**self.rows_per_band) ** self.num_bands

    def bands(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Returns the hash of each band's minima, [num_bands]; `NO_BAND` in each for no words.

        A document of fewer than `shingle_words` words is one shingle of all its words.

        Args:
            words: the document's word hashes, [num_words].
        """
        if not len(words):
            return np.full(self.num_bands, NO_BAND, np.uint64)
        minima = self._minima(words).reshape(self.num_bands, self.rows_per_band)
        bands = _mixed((minima * self._row_factors).sum(axis=1, dtype=np.uint64))
        return np.where(bands == NO_BAND, np.uint64(1), bands)

    def _minima(self, words: NDArray[np.uint64]) -> NDArray[np.uint32]:
        size = min(self.shingle_words, len(words))
        num_shingles = len(words) - size + 1
        minima = np.full(len(self._factors), np.iinfo(np.uint32).max, np.uint32)
        scratch = np.empty((len(minima), min(num_shingles, _BLOCK_SHINGLES)), np.uint32)
        for start in range(0, num_shingles, _BLOCK_SHINGLES):
            shingles = ngram_hashes(words[start : start + _BLOCK_SHINGLES + size - 1], size)
            # 32 bits multiply four times as fast as 64. One minimum of a very long document may agree
            # by chance, the eight of a band do not. Never 0, which every factor maps to 0.
            values = _mixed(shingles).astype(np.uint32) | np.uint32(1)
            hashes = np.multiply.outer(self._factors, values, out=scratch[:, : len(values)])
            np.minimum(minima, hashes.min(axis=1), out=minima)
        return minima

    @cached_property
    def _factors(self) -> NDArray[np.uint32]:
        """One hash function each, x ↦ factor·x modulo 2^32: a permutation, since factors are odd."""
        return self._random_odd(0, self.num_bands * self.rows_per_band).astype(np.uint32)

    @cached_property
    def _row_factors(self) -> NDArray[np.uint64]:
        return self._random_odd(1, self.rows_per_band)

    def _random_odd(self, stream: int, count: int) -> NDArray[np.uint64]:
        # numpy keeps a bit generator's raw output the same across versions, not its distributions'.
        return np.random.PCG64([self.seed, stream]).random_raw(count) | np.uint64(1)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns a bijection of 64-bit values in which every bit depends on every other."""
    for _ in range(2):
        values = (values ^ (values >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return values ^ (values >> np.uint64(32))
