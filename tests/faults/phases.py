"""When to kill whom: moments that are seen from outside, by what a stage has written so far."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

Happens = Callable[[], bool]
Watch = Callable[[Path, Random], Happens]
"""Takes an artifact root and dice; returns what says whether the moment has come."""


@dataclass(frozen=True)
class Phase:
    """A moment in a stage, and who is killed then."""

    name: str
    kind: str
    """Of the artifacts that are made then."""
    watch: Watch
    victim: str = "command"
    jitter_seconds: float = 0.05
    """At most this long after the moment was seen."""


def attempt_of(kind: str) -> Watch:
    """Returns a watch that sees an artifact of a kind being made, a later one than there is now."""

    def watch(root: Path, dice: Random) -> Happens:
        earlier = set(root.glob(f"{kind}/*/attempt-*"))

        def happens() -> bool:
            attempts = set(root.glob(f"{kind}/*/attempt-*")) - earlier
            return any(not (attempt.parent / "manifest.json").exists() for attempt in attempts)

        return happens

    return watch


def committed(kind: str, most: int) -> Watch:
    """Returns a watch that sees one to `most` more artifacts of a kind."""

    def watch(root: Path, dice: Random) -> Happens:
        pattern = f"{kind}/*/manifest.json"
        wanted = len(list(root.glob(pattern))) + dice.randint(1, most)
        return lambda: len(list(root.glob(pattern))) >= wanted

    return watch


def file_of(kind: str, name: str) -> Watch:
    """Returns a watch that sees a file of an artifact that is not committed."""

    def watch(root: Path, dice: Random) -> Happens:
        earlier = set(root.glob(f"{kind}/*/attempt-*/{name}"))
        return lambda: bool(set(root.glob(f"{kind}/*/attempt-*/{name}")) - earlier)

    return watch


def steps_of(kind: str) -> Watch:
    """Returns a watch that sees training go a few steps further than it has come."""

    def num_steps(root: Path) -> int:
        histories = list(root.glob(f"{kind}/*/state/history.jsonl"))
        return len(histories[0].read_bytes().splitlines()) if histories else 0

    def watch(root: Path, dice: Random) -> Happens:
        wanted = num_steps(root) + dice.randint(1, 4)
        return lambda: num_steps(root) >= wanted

    return watch


def checkpoint_of(kind: str) -> Watch:
    """Returns a watch that sees a checkpoint that is begun and not whole."""

    def watch(root: Path, dice: Random) -> Happens:
        def happens() -> bool:
            steps = root.glob(f"{kind}/*/state/checkpoints/step-*")
            return any(list(step.glob("attempt-*")) and not list(step.glob("*.json")) for step in steps)

        return happens

    return watch


PHASES: dict[str, tuple[Phase, ...]] = {
    "prepare": (
        Phase("downloading", "documents", attempt_of("documents")),
        Phase("collecting", "documents", committed("documents", 4)),
        Phase("tokenizing", "tokens", attempt_of("tokens")),
        Phase("sharding", "tokens", committed("tokens", 4)),
        Phase("merging", "prepare", attempt_of("prepare"), jitter_seconds=0.3),
    ),
    "convert": (Phase("converting", "convert", attempt_of("convert"), jitter_seconds=0.3),),
    "pretrain": (
        Phase("training", "pretrain", steps_of("pretrain")),
        Phase("checkpointing", "pretrain", checkpoint_of("pretrain"), jitter_seconds=0.02),
        Phase("training", "pretrain", steps_of("pretrain"), "rank"),
        Phase("training", "pretrain", steps_of("pretrain"), "agent"),
        Phase("assembling", "pretrain", file_of("pretrain", "model"), jitter_seconds=0.02),
    ),
    "finetune": (
        Phase("packing conversations", "instructions", attempt_of("instructions"), jitter_seconds=0.5),
        Phase("training predictors", "finetune", steps_of("finetune"), "rank"),
        Phase(
            "choosing thresholds", "finetune", file_of("finetune", "model/tokenizer.json"), jitter_seconds=1.0
        ),
    ),
    "evaluate": (Phase("measuring", "evaluate", attempt_of("evaluate"), jitter_seconds=8.0),),
    "export": (Phase("exporting", "export", attempt_of("export"), jitter_seconds=5.0),),
}
"""Of every stage, in the order in which they come."""

NUM_OTHER_KILLS = 5
"""Of a round, in test_other_kills.py."""


def num_rounds(num_kills: int) -> int:
    """Returns how many rounds over all moments make at least so many kills."""
    return math.ceil(num_kills / (sum(map(len, PHASES.values())) + NUM_OTHER_KILLS))
