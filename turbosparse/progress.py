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


def ignore_log(line: str) -> None:
    """The listener to training's output for callers who do not care."""


@dataclass(frozen=True)
class Listener:
    """Who hears of a stage's progress and of its processes' output."""

    on_progress: OnProgress = ignore_progress
    on_log: Callable[[str], None] = ignore_log
