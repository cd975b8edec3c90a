"""Files as windows of token ids."""

import json

import pytest

from turbosparse.analysis.text import (
    PIECE_CHARACTERS,
    iterate_windows,
    joined_windows,
    read_texts,
    token_windows,
)
from turbosparse.errors import DataError


class Characters:
    """One token per character: what is cut where shows."""

    bos_token_id = 1

    def __call__(self, text, add_special_tokens, verbose):
        return {"input_ids": [ord(character) for character in text]}


def test_jsonl_rows_and_plain_text_are_read_whole(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a\\u2028b"}\n\n{"text": "ünï"}\n', encoding="utf-8")
    assert list(read_texts(rows)) == ["a\u2028b", "ünï"]
    text = "one line\n" * 20_000 + "x" * (2 * PIECE_CHARACTERS) + "\nend"
    plain = tmp_path / "plain.txt"
    plain.write_text(text)
    pieces = list(read_texts(plain))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2 * PIECE_CHARACTERS


@pytest.mark.parametrize("content", ['{"title": "a"}', "not json", '["text"]', '{"text": 3}', None])
def test_unreadable_rows_are_refused(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match="--text"):
        list(read_texts(path))


def test_windows_start_with_bos_by_text_and_stop_at_the_wanted_number():
    windows = token_windows(Characters(), ["abcd", "efg"], window_tokens=3, num_tokens=7)
    assert [window.tolist() for window in windows] == [[1, 97, 98], [99, 100], [1, 101]]


def test_windows_are_made_as_they_are_needed():
    def endless():
        while True:
            yield "abcd"

    windows = iterate_windows(Characters(), endless(), window_tokens=3, num_tokens=None)
    assert [len(next(windows)) for _ in range(4)] == [3, 2, 3, 2]


def test_joined_windows_are_one_text_with_bos_before_each():
    texts = ["ab", "", "cdef\n", "gh"]
    windows = joined_windows(Characters(), texts, window_tokens=5, num_tokens=None)
    assert all(window[0] == 1 and len(window) <= 5 for window in windows)
    assert "".join(chr(token) for window in windows for token in window[1:]) == "ab\n\ncdef\ngh\n"
    assert [len(window) for window in windows[:-1]] == [5] * (len(windows) - 1)


@pytest.mark.parametrize("num_tokens", [4, 7, 8, 9])
def test_joined_windows_stop_at_the_wanted_number_of_text_tokens(num_tokens):
    windows = joined_windows(Characters(), ["abc"] * 50_000, window_tokens=5, num_tokens=num_tokens)
    assert sum(len(window) - 1 for window in windows) == num_tokens


@pytest.mark.parametrize("windows_of", [token_windows, joined_windows])
def test_text_without_a_token_is_refused(windows_of):
    with pytest.raises(DataError, match="at least one token"):
        windows_of(Characters(), [], 8, None)


def test_rows_are_strings_that_json_gives(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "line\nbreak"}) + "\n")
    assert list(read_texts(path)) == ["line\nbreak"]
