"""Documents as plain text: exact copies left out, long ones cut into passages."""

import hashlib
from collections.abc import Iterable, Iterator


class Claims:
    """Which source each document went to, by a 16-byte fingerprint of its text."""

    def __init__(self) -> None:
        self._owners: dict[bytes, str] = {}

    def first(self, source: str, texts: Iterable[str]) -> Iterator[str]:
        """Yields each text once, unless it went to another source before."""
        given: set[bytes] = set()
        for text in texts:
            key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if key not in given and self._owners.setdefault(key, source) == source:
                given.add(key)
                yield text


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
