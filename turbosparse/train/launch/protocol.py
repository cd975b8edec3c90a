"""What ranks, their agent and the launcher say to each other: JSON lines on standard output."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

_KEY = "turbosparse"


@dataclass(frozen=True)
class Event:
    """One message of a rank or of an agent."""

    name: str
    """`step` (a StepRecord of rank 0), or how training ended: `refusal`, `failure`, `silence`."""
    values: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A rank ended by an error that says what to do; the launcher raises it again."""

    kind: str
    """The error's class, in turbosparse.errors."""
    arguments: list[Any]
    """What the class is made of."""


@dataclass(frozen=True)
class Failure:
    """The first rank of a node that failed."""

    rank: int
    exit_status: int
    """Negative: the signal that ended it."""


@dataclass(frozen=True)
class Silence:
    """Ranks that did not report in time, and were killed with the others."""

    ranks: list[int]
    seconds: float
    doing: str
    """The last that was heard of them."""


def emit(name: str, values: Any) -> None:
    """Sends an event to the launcher; `values` is a dataclass."""
    # One write: the ranks share a pipe, in which each write of up to 4 KiB stays whole.
    sys.stdout.write(json.dumps({_KEY: name, "values": asdict(values)}) + "\n")
    sys.stdout.flush()


def parse(line: str) -> Event | None:
    """Returns the event in a line of output, or None for any other output."""
    if not line.startswith(f'{{"{_KEY}"'):
        return None
    try:
        message = json.loads(line)
    except json.JSONDecodeError:
        # Ranks share the pipe: another one's output may have cut into the line.
        print(line, file=sys.stderr)
        return None
    return Event(message[_KEY], message["values"])
