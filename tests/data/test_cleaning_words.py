"""Words and n-grams: the same hashes everywhere, whatever the case, punctuation and length."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import xxhash

from turbosparse.data.cleaning import words
from turbosparse.data.cleaning.words import ngram_hashes, ngram_hashes_at, word_hashes

TEXT = "The naïve Café's 42nd menu_card — ΣΟΦΟΣ, 東京 e\u0301 ²x 'quoted'\r\n\tend\ud800."


def hashes_of(*found: str) -> list[int]:
    return [xxhash.xxh3_64_intdigest(word) for word in found]


def test_words_are_lower_cased_runs_of_letters_and_digits():
    assert word_hashes("Kate’s friends, 6 of_them!").tolist() == hashes_of(
        "kate", "s", "friends", "6", "of", "them"
    )
    assert word_hashes(TEXT).tolist() == hashes_of(*re.findall(r"[^\W_]+", TEXT.lower()))


@pytest.mark.parametrize("text", ["", " \n", "…—!", "\ud800"])
def test_text_without_words(text):
    assert word_hashes(text).shape == (0,)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_no_word_is_cut_where_a_long_text_is_taken_apart(monkeypatch, length):
    whole = word_hashes(TEXT)
    monkeypatch.setattr(words, "_PIECE_CHARACTERS", length)
    np.testing.assert_array_equal(word_hashes(TEXT), whole)


def test_hashes_survive_a_full_cache(monkeypatch):
    whole = word_hashes(TEXT)
    monkeypatch.setattr(words, "_HASHES", words._WordHashes())
    monkeypatch.setattr(words, "_CACHED_WORDS", 3)
    np.testing.assert_array_equal(word_hashes(TEXT), whole)
    assert len(words._HASHES) <= 3


def test_ngrams_are_equal_for_equal_windows_only():
    sequence = word_hashes("a b c d a b c e c b a")
    found = ngram_hashes(sequence, 3).tolist()
    assert len(found) == 9
    assert found[0] == found[4]
    assert len(set(found)) == 8  # c b a is not a b c
    np.testing.assert_array_equal(ngram_hashes(sequence[4:7], 3), found[4:5])


def test_ngrams_at_positions_are_those_of_all_positions():
    sequence = word_hashes(TEXT)
    positions = np.array([0, 3, 5])
    np.testing.assert_array_equal(
        ngram_hashes_at(sequence, positions, 4), ngram_hashes(sequence, 4)[positions]
    )


def test_too_few_words_make_no_ngram():
    assert ngram_hashes(word_hashes("one two"), 3).shape == (0,)
    assert ngram_hashes(word_hashes(""), 3).shape == (0,)


def test_hashes_and_bands_are_the_same_in_every_process():
    code = (
        "from turbosparse.data.cleaning.minhash import MinHash;"
        "from turbosparse.data.cleaning.words import word_hashes, ngram_hashes;"
        "words = word_hashes('Some words that every process must hash alike, today and tomorrow');"
        "print(words.tolist(), ngram_hashes(words, 5).tolist(), MinHash().bands(words).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
