"""What the harness does not ask a model for, but a result must say: texts' tokens, contexts cut."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Item = tuple[str, int]
"""Task and number of the item."""


@dataclass(frozen=True)
class TextTokens:
    """How probable a whole text was, beginning of text apart."""

    log_likelihood: float
    num_tokens: int


@dataclass
class Tally:
    """Counts by item while a model is evaluated."""

    num_too_long: Counter[Item] = field(default_factory=Counter)
    """Requests whose context was cut from the left."""
    texts: dict[Item, TextTokens] = field(default_factory=dict)
    """Texts whose perplexity was measured."""

    def count_too_long(self, request: Any) -> None:
        """Counts one request whose context did not fit."""
        self.num_too_long[request.task_name, request.doc_id] += 1

    def add_text(self, request: Any, log_likelihood: float, num_tokens: int) -> None:
        """Keeps a text's log-likelihood and number of tokens."""
        self.texts[request.task_name, request.doc_id] = TextTokens(log_likelihood, num_tokens)
