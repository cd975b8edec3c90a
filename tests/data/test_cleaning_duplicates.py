"""Duplicates: later copies go, the first stays, and neither memory nor later files change that."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from turbosparse.data.cleaning.duplicates import SAMPLES_PER_FILE, find_duplicates, fingerprint
from turbosparse.data.cleaning.minhash import NO_BAND, MinHash
from turbosparse.data.cleaning.words import word_hashes

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora"


def save(folder: Path, tables: list[np.ndarray]) -> list[Path]:
    files = [folder / f"{number}.npy" for number in range(len(tables))]
    for file, table in zip(files, tables, strict=True):
        np.save(file, table)
    return files


def save_texts(folder: Path, groups: list[list[str]]) -> list[Path]:
    finder = MinHash()
    rows = [
        [[*fingerprint(text), *finder.bands(word_hashes(text)).tolist()] for text in texts]
        for texts in groups
    ]
    return save(folder, [np.array(table, np.uint64).reshape(-1, 16) for table in rows])


def random_tables(rng: np.random.Generator, num_columns: int) -> list[np.ndarray]:
    """Tables in which many values agree; spread over all 64 bits, so that every part gets some."""
    values = rng.integers(0, 2**64, 40, dtype=np.uint64)
    values[:2] = NO_BAND, 2**64 - 1
    tables = [rng.choice(values, (size, num_columns)) for size in (9, 0, 14, 30)]
    for table in tables[2:]:
        table[::3, :2] = tables[0][0, :2]
    return tables


def by_definition(tables: list[np.ndarray]) -> list[tuple[list[int], list[int]]]:
    fingerprints, bands, result = set(), set(), []
    for table in tables:
        exact, near = [], []
        for row, values in enumerate(table.tolist()):
            own = {(column, value) for column, value in enumerate(values[2:]) if value != NO_BAND}
            if tuple(values[:2]) in fingerprints:
                exact.append(row)
                continue
            if own & bands:
                near.append(row)
            fingerprints.add(tuple(values[:2]))
            bands |= own
        result.append((exact, near))
    return result


@pytest.mark.parametrize("num_columns", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_memory_the_definition_is_met(tmp_path, num_columns, seed):
    tables = random_tables(np.random.default_rng(seed), num_columns)
    files = save(tmp_path, tables)
    expected = by_definition(tables)
    whole = find_duplicates(files)
    assert any(near for _, near in expected) == (num_columns > 2)
    for max_rows in (1, 6, 17, 1_000):
        found = find_duplicates(files, max_rows)
        assert [(file.exact.tolist(), file.near.tolist()) for file in found] == expected
        assert [file.first for file in found] == [file.first for file in whole]


@pytest.mark.parametrize("max_rows", [6, 1_000])
def test_samples_name_the_first_document_that_agrees(tmp_path, max_rows):
    tables = random_tables(np.random.default_rng(1), 5)
    every = [(file, row) for file, table in enumerate(tables) for row in range(len(table))]
    found = find_duplicates(save(tmp_path, tables), max_rows)

    def original(file: int, row: int) -> tuple[int, int]:
        is_exact = row in found[file].exact
        for columns in [slice(0, 2)] if is_exact else [slice(2, 3), slice(3, 4), slice(4, 5)]:
            values = tables[file][row, columns]
            first = next(
                (other, place)
                for other, place in every
                if (tables[other][place, columns] == values).all()
                and (is_exact or place not in found[other].exact)
            )
            if first != (file, row) and values[0] != NO_BAND:
                return first
        raise AssertionError

    for file, duplicates in enumerate(found):
        rows = [*duplicates.exact[:SAMPLES_PER_FILE].tolist(), *duplicates.near[:SAMPLES_PER_FILE].tolist()]
        assert duplicates.first == {row: original(file, row) for row in rows}


def test_a_file_added_at_the_end_changes_nothing_before(tmp_path):
    files = save(tmp_path, random_tables(np.random.default_rng(2), 5))
    before = find_duplicates(files[:3], 10)
    after = find_duplicates(files, 10)
    for one, other in zip(before, after, strict=False):
        assert (one.exact.tolist(), one.near.tolist(), one.first) == (
            other.exact.tolist(),
            other.near.tolist(),
            other.first,
        )


def test_both_halves_of_a_fingerprint_must_agree(tmp_path):
    (found,) = find_duplicates(save(tmp_path, [np.array([[1, 1], [1, 2], [2, 1], [1, 1]], np.uint64)]))
    assert found.exact.tolist() == [3]


def test_storage_order_makes_no_difference(tmp_path):
    tables = random_tables(np.random.default_rng(4), 5)
    files = save(tmp_path, [np.asfortranarray(table) for table in tables])
    found = find_duplicates(files, 7)
    assert [(file.exact.tolist(), file.near.tolist()) for file in found] == by_definition(tables)


def test_memory_is_bounded(tmp_path):
    tables = [
        np.random.default_rng(seed).integers(0, 2**64, (10_000, 3), dtype=np.uint64) for seed in range(3)
    ]
    files = save(tmp_path, tables)
    peaks = []
    for max_rows in (30_000, 3_000):
        tracemalloc.start()
        find_duplicates(files, max_rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 3


def test_no_files():
    assert find_duplicates([]) == []


def test_documents_without_words_are_no_copies_of_each_other(tmp_path):
    (found,) = find_duplicates(save_texts(tmp_path, [["—", "…", "—"]]))
    assert (found.exact.tolist(), found.near.tolist()) == ([2], [])


def test_fingerprints_tell_texts_apart_that_have_the_same_words():
    assert fingerprint("Hello world") != fingerprint("hello, world") != fingerprint("hello world")
    assert len({half for text in ("a", "b") for half in fingerprint(text)}) == 4
    assert fingerprint("\ud800") != fingerprint("")


def real_texts(name: str) -> list[str]:
    file = CORPORA / name
    if not file.is_file():
        pytest.skip(f"needs {name}")
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def edited(text: str) -> str:
    """Returns the text with one word in a hundred changed, in capitals, on one line."""
    words = text.upper().split()
    words[50::100] = ["edited"] * len(words[50::100])
    return "  ".join(words)


def test_planted_copies_of_real_pages_are_found_and_nothing_else(tmp_path):
    pages = [text for text in real_texts("web_c4.jsonl") if len(text.split()) > 100][:60]
    stories = real_texts("academic_abstracts_s2orc.jsonl")[:100]
    second = [pages[3], stories[0], edited(pages[10]), pages[20] + "\nSubscribe to our letter.", stories[1]]
    third = [edited(pages[10]), stories[2], pages[11]]
    first, again, last = find_duplicates(save_texts(tmp_path, [pages, second, third + stories[3:]]))
    assert (first.exact.tolist(), first.near.tolist()) == ([], [])
    assert (again.exact.tolist(), again.near.tolist()) == ([0], [2, 3])
    assert again.first == {0: (0, 3), 2: (0, 10), 3: (0, 20)}
    assert (last.exact.tolist(), last.near.tolist()) == ([0, 2], [])
    assert last.first == {0: (1, 2), 2: (0, 11)}
