"""Ranks say that they live; their agent notices who falls silent.

Each rank has a file in a folder that the agent names in its environment. Without an agent, as in a
notebook, a beat does nothing.
"""

import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from turbosparse.config import SupervisionConfig
from turbosparse.train.launch.protocol import Silence

FOLDER = "TURBOSPARSE_HEARTBEATS"
_numbers = itertools.count(1)


def beat(doing: str, is_slow: bool = False) -> None:
    """Tells the agent what this rank does next.

    Args:
        doing: For people: "step 12", "writing a checkpoint".
        is_slow: Whether the next beat may take as long as start-up, rather than as long as a step.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    path = Path(folder) / os.environ["RANK"]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"number": next(_numbers), "doing": doing, "is_slow": is_slow}))
    fresh.replace(path)


@dataclass(frozen=True)
class _LastBeat:
    number: int
    doing: str
    is_slow: bool
    heard: float
    """When the agent noticed, by its own clock."""


class Heartbeats:
    """The agent's side: when each of a node's ranks was last heard."""

    def __init__(
        self,
        folder: Path,
        ranks: range,
        limits: SupervisionConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._last = {rank: _LastBeat(0, "starting", is_slow=True, heard=clock()) for rank in ranks}

    def silence(self) -> Silence | None:
        """Returns who has been silent for too long.

        Where one rank hangs, the others soon wait for it: of the silent ones those are named that came
        least far.
        """
        now = self._clock()
        for rank in self._last:
            self._listen(rank, now)
        silent = {rank: last for rank, last in self._last.items() if now - last.heard > self._limit(last)}
        if not silent:
            return None
        behind = min(last.number for last in silent.values())
        named = [rank for rank, last in silent.items() if last.number == behind]
        first = silent[named[0]]
        return Silence(named, round(now - first.heard, 1), first.doing)

    def _listen(self, rank: int, now: float) -> None:
        try:
            message = json.loads((self._folder / str(rank)).read_text())
        except FileNotFoundError:
            return
        if message["number"] != self._last[rank].number:
            self._last[rank] = _LastBeat(**message, heard=now)

    def _limit(self, last: _LastBeat) -> float:
        return self._limits.startup_timeout_seconds if last.is_slow else self._limits.hang_timeout_seconds
