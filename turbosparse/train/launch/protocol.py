"""What training processes and their launcher say to each other: JSON lines on standard output."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

_KEY = "turbosparse"


@dataclass(frozen=True)
class Event:
    """One message of rank 0."""

    name: str
    """`step` (a StepRecord) or `error` (what a user needs to know)."""
    values: dict[str, Any]


def emit(name: str, values: Any) -> None:
    """Sends an event to the launcher; `values` is a dataclass."""
    print(json.dumps({_KEY: name, "values": asdict(values)}), flush=True)


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
