"""How library verbs report progress: plain values handed to whoever listens."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a stage has come."""

    stage: str
    completed: int
    total: int
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    """Figures to show beside the bar: loss, tokens per second, zero-activation ratio."""


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The listener for callers who do not care."""
