"""Texts that tokenizers stumble over: scripts, digits, symbols, runs of blanks."""

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog did not mind.",
    "In 1986 there were 1,024 of them; it's 3.14159, don't you think?",
    "def add(a, b):\n    return a + b  # twice",
    "naïve café – déjà vu … 日本語 и русский 🙂",
    "runs of   blanks,\ttabs\n\n\nand lines",
]
