"""MinHash: documents share a band with the probability that their similarity gives."""

import numpy as np
import pytest

from turbosparse.data.cleaning import minhash
from turbosparse.data.cleaning.minhash import NO_BAND, MinHash
from turbosparse.data.cleaning.words import word_hashes

NUM_SHINGLES = 300


def random_words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


def ratio_found(similarity: float, num_pairs: int) -> float:
    """Returns how many pairs of documents of this Jaccard similarity share a band."""
    rng, finder = np.random.default_rng(7), MinHash()
    num_shared = round(NUM_SHINGLES * 2 * similarity / (1 + similarity))
    found = 0
    for _ in range(num_pairs):
        shared = random_words(rng, num_shared + 4)
        one, other = (
            finder.bands(np.concatenate([shared, random_words(rng, NUM_SHINGLES - num_shared)]))
            for _ in range(2)
        )
        found += bool((one == other).any())
    return found / num_pairs


def test_similar_documents_are_found_and_dissimilar_ones_are_not():
    assert ratio_found(0.9, 200) > 0.98
    assert ratio_found(0.3, 200) < 0.02


@pytest.mark.parametrize("similarity", [0.6, MinHash().threshold, 0.8])
def test_the_chance_to_be_found_is_as_stated(similarity):
    expected = MinHash().chance_to_be_found(similarity)
    # Three standard errors of 500 pairs.
    assert ratio_found(similarity, 500) == pytest.approx(
        expected, abs=3 * (expected * (1 - expected) / 500) ** 0.5
    )


def test_threshold():
    assert MinHash().threshold == pytest.approx(0.719, abs=5e-4)
    assert MinHash().chance_to_be_found(MinHash().threshold) == pytest.approx(0.65, abs=5e-3)


def test_blocks_make_no_difference(monkeypatch):
    words = random_words(np.random.default_rng(3), 100)
    whole = MinHash().bands(words)
    monkeypatch.setattr(minhash, "_BLOCK_SHINGLES", 7)
    np.testing.assert_array_equal(MinHash().bands(words), whole)


def test_every_shingle_counts():
    words = random_words(np.random.default_rng(3), 40)
    all_rows = MinHash(num_bands=400, rows_per_band=1)
    assert (all_rows.bands(words) != all_rows.bands(words[:-1])).any()
    assert (all_rows.bands(words) != all_rows.bands(words[1:])).any()


def test_a_short_document_is_one_shingle():
    finder = MinHash()
    same = finder.bands(word_hashes("Hello, world"))
    np.testing.assert_array_equal(finder.bands(word_hashes("hello world!")), same)
    for other in ("hello", "world hello", "hello world again"):
        assert not (finder.bands(word_hashes(other)) == same).any()


def test_a_document_without_words_has_no_band():
    assert MinHash().bands(word_hashes("—")).tolist() == [NO_BAND] * 14


def test_seeds_choose_other_hash_functions():
    words = random_words(np.random.default_rng(3), 50)
    assert not (MinHash(seed=1).bands(words) == MinHash(seed=2).bands(words)).any()
