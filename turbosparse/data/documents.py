"""Documents as plain text: digests, and long ones cut into passages."""

import hashlib
from collections.abc import Iterable, Iterator


def digest_of(lines: Iterable[str]) -> str:
    """Returns the sha256 of these lines, in the given order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def split_passages(text: str, longest: int = 20_000) -> Iterator[str]:
    """Cuts a long text into passages of at most `longest` characters.

    It cuts at the last paragraph break that fits, else at a line break, else at a space, else in
    the middle of a word. Nothing is lost: the passages concatenate to the text.
    """
    start = 0
    while len(text) - start > longest:
        end = _last_break(text, start, start + longest)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _last_break(text: str, start: int, stop: int) -> int:
    # Not in the first half, so that passages don't shrink to a few words.
    middle = (start + stop) // 2
    for separator in ("\n\n", "\n", " "):
        found = text.rfind(separator, middle, stop)
        if found >= 0:
            return found + len(separator)
    return stop
