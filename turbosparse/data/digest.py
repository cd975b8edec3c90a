"""Digests of texts and of lists of names."""

import hashlib
from collections.abc import Iterable


def digest_of(lines: Iterable[str]) -> str:
    """Returns the sha256 of these lines, in the given order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
