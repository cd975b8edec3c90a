"""Text files as windows of token ids, read as they are needed."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from turbosparse.errors import DataError

PIECE_CHARACTERS = 65_536
"""Plain text is read and tokenized in pieces of about this size."""


def read_texts(path: Path) -> Iterator[str]:
    """Yields the texts of JSONL rows with a `text` field, or the pieces of a plain text file.

    Raises:
        DataError: No such file, at once; a row without text or bytes that are not UTF-8, when they are met.
    """
    if not path.is_file():
        raise _unreadable(path, "no such file")
    return _rows(path)


def token_windows(
    tokenizer: Any, texts: Iterable[str], window_tokens: int, num_tokens: int | None
) -> list[Tensor]:
    """Returns token ids of each text, BOS first, cut into windows, `num_tokens` in all at the most.

    Raises:
        DataError: The texts hold no token.
    """
    windows = list(iterate_windows(tokenizer, texts, window_tokens, num_tokens))
    check_windows(windows)
    return windows


def iterate_windows(
    tokenizer: Any, texts: Iterable[str], window_tokens: int, num_tokens: int | None
) -> Iterator[Tensor]:
    """Yields what token_windows returns, holding one text at a time."""
    left = num_tokens
    for text in texts:
        ids = [tokenizer.bos_token_id, *_encode(tokenizer, text)]
        yield from torch.tensor(ids[:left]).split(window_tokens)
        left = None if left is None else left - len(ids)
        if left is not None and left <= 0:
            return


def joined_windows(
    tokenizer: Any, texts: Iterable[str], window_tokens: int, num_tokens: int | None
) -> list[Tensor]:
    """Returns windows over all texts as one: rows joined by line breaks, BOS before each window.

    WikiText is measured so: its rows are lines of a book, not documents.

    Raises:
        DataError: The texts hold no token.
    """
    windows: list[Tensor] = []
    ids: list[int] = []
    left, body = num_tokens, window_tokens - 1
    for piece in _join(texts):
        ids += _encode(tokenizer, piece)
        ids = ids[:left]
        while len(ids) >= body:
            windows.append(torch.tensor([tokenizer.bos_token_id, *ids[:body]]))
            ids, left = ids[body:], None if left is None else left - body
        if left is not None and len(ids) >= left:
            break
    if ids:
        windows.append(torch.tensor([tokenizer.bos_token_id, *ids]))
    check_windows(windows)
    return windows


def check_windows(windows: list[Tensor]) -> None:
    """Refuses windows without a single token after BOS.

    Raises:
        DataError: The texts hold no token.
    """
    if not any(len(window) > 1 for window in windows):
        raise DataError("text", f"{len(windows)} windows", "text of at least one token", "give another text")


def _rows(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix != ".jsonl":
                yield from _pieces(file)
                return
            for line in file:
                if line.strip():
                    yield _text_of(json.loads(line))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise _unreadable(path, repr(error)) from error


def _text_of(row: Any) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError(f"text is {type(text).__name__}")
    return text


def _pieces(file: TextIO) -> Iterator[str]:
    """Cuts a file after line breaks, or anywhere where a piece has none."""
    rest = ""
    while block := file.read(PIECE_CHARACTERS):
        text = rest + block
        cut = text.rfind("\n") + 1 or len(text)
        yield text[:cut]
        rest = text[cut:]
    if rest:
        yield rest


def _join(texts: Iterable[str]) -> Iterator[str]:
    """Joins rows up to pieces worth tokenizing: a tokenizer marks the start of whatever it is given."""
    rows: list[str] = []
    num_characters = 0
    for text in texts:
        rows.append(text if text.endswith("\n") else text + "\n")
        num_characters += len(text)
        if num_characters >= PIECE_CHARACTERS:
            yield "".join(rows)
            rows, num_characters = [], 0
    if rows:
        yield "".join(rows)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        "--text", str(path), "a text file, or JSONL with a text field", f"check the file ({reason})"
    )
