"""Dropped documents, counted by reason, with a few samples of each."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SAMPLES_PER_REASON = 3
SAMPLE_CHARACTERS = 160


@dataclass
class Tally:
    """What was left out, and why."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, sample: str) -> None:
        """Counts one document; the first few of each reason are kept as samples."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < SAMPLES_PER_REASON:
            kept.append(_excerpt(sample))

    def count(self, reason: str, num_documents: int, samples: Iterable[str]) -> None:
        """Counts many documents of one reason at once."""
        if not num_documents:
            return
        self.counts[reason] = self.counts.get(reason, 0) + num_documents
        kept = self.samples.setdefault(reason, [])
        kept.extend(_excerpt(sample) for sample in list(samples)[: SAMPLES_PER_REASON - len(kept)])

    def merge(self, other: "Tally") -> None:
        """Adds another tally's counts, and its samples while there is room."""
        for reason, number in other.counts.items():
            self.count(reason, number, other.samples.get(reason, ()))

    def as_dict(self) -> dict[str, Any]:
        """Returns `{reason: {count, samples}}`, the most frequent reason first."""
        reasons = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return {
            reason: {"count": self.counts[reason], "samples": self.samples.get(reason, [])}
            for reason in reasons
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Tally":
        """Returns the tally that `as_dict` wrote."""
        return cls(
            {reason: entry["count"] for reason, entry in content.items()},
            {reason: list(entry["samples"]) for reason, entry in content.items()},
        )


def _excerpt(sample: str) -> str:
    return " ".join(sample[: 2 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS]
