"""How training ended, from what was said and written: the error that a launcher raises."""

import os
import signal
from collections import deque
from collections.abc import Callable

import turbosparse.errors
from turbosparse.errors import TrainingError, TrainingPreempted
from turbosparse.masking import mask
from turbosparse.train.launch.protocol import Event, Failure, Refusal, Silence, parse

NUM_LINES_KEPT = 60
OnEvent = Callable[[Event], None]
OnLog = Callable[[str], None]


class Transcript:
    """Sorts lines of output: events to one, the rest to another; remembers how it ended."""

    def __init__(self, on_event: OnEvent, on_log: OnLog) -> None:
        self._on_event = on_event
        self._on_log = on_log
        self._tail: deque[str] = deque(maxlen=NUM_LINES_KEPT)
        self._endings: dict[str, Event] = {}

    def read(self, line: str) -> None:
        """Takes one line."""
        event = parse(line)
        if event is None:
            self._keep(mask(line.rstrip()))
        elif event.name in ("refusal", "silence", "failure"):
            # The first one is the cause; the others follow from it.
            self._endings.setdefault(event.name, event)
        else:
            self._on_event(event)

    def _keep(self, line: str) -> None:
        if line:
            self._tail.append(line)
            self._on_log(line)

    @property
    def is_refused(self) -> bool:
        """Whether a rank has said that its input can't work."""
        return "refusal" in self._endings

    def error(self, exit_status: int | None) -> Exception:
        """Returns what to raise for an agent that ended with a status other than 0; None: unknown."""
        if self.is_refused:
            return _refused(Refusal(**self._endings["refusal"].values))
        if "silence" in self._endings:
            return TrainingError(_silent(Silence(**self._endings["silence"].values)) + self._output())
        if exit_status == os.EX_TEMPFAIL:
            return TrainingPreempted(
                "training was told to stop; run it again to resume at its last checkpoint" + self._output()
            )
        if "failure" in self._endings:
            failure = Failure(**self._endings["failure"].values)
            return TrainingError(f"rank {failure.rank} {_ended(failure.exit_status)}{self._output()}")
        status = "without a status" if exit_status is None else _ended(exit_status)
        return TrainingError(f"training {status}{self._output()}")

    def _output(self) -> str:
        return ":\n" + "\n".join(self._tail) if self._tail else ""


def _refused(refusal: Refusal) -> Exception:
    kind = getattr(turbosparse.errors, refusal.kind, None)
    assert isinstance(kind, type) and issubclass(kind, Exception), refusal.kind
    return kind(*refusal.arguments)


def _silent(silence: Silence) -> str:
    who = ("ranks " if len(silence.ranks) > 1 else "rank ") + ", ".join(map(str, silence.ranks))
    return f"{who} hung: silent for {silence.seconds:.0f} s, last heard at {silence.doing!r}"


def _ended(exit_status: int) -> str:
    if exit_status < 0:
        return f"was ended by {signal.Signals(-exit_status).name}"
    return f"ended with status {exit_status}"
