"""Watches the ranks of one node: passes a request to stop on, ends those that hang or outstay it."""

import contextlib
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from turbosparse.config import SupervisionConfig
from turbosparse.processes import descendants, signal_each
from turbosparse.train.launch.heartbeat import Heartbeats
from turbosparse.train.launch.protocol import emit
from turbosparse.train.launch.shared_memory import Segments

SIGNALS_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_BETWEEN_LOOKS = 0.5
# Eight ranks with their loaders map some 10,000 files: reading them all takes 50 ms.
SECONDS_BETWEEN_NOTES = 5.0
SECONDS_TO_LET_GO = 5.0


class Supervisor:
    """A thread beside torchrun, which may itself wait in C code where Python handles no signal."""

    def __init__(
        self,
        heartbeats: Heartbeats,
        limits: SupervisionConfig,
        segments: Segments,
        clean_up: Callable[[], None],
    ) -> None:
        self._heartbeats = heartbeats
        self._limits = limits
        self._segments = segments
        self._clean_up = clean_up
        self._noted_at = 0.0
        self._wakes, self._signals = socket.socketpair()
        self._ended = threading.Event()
        self._told_at: float | None = None
        self._told: set[int] = set()

    @property
    def is_told_to_stop(self) -> bool:
        """Whether a signal asked this node to stop."""
        return self._told_at is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches inside the block. To be called by the main thread: it takes the signals."""
        self._take_signals()
        thread = threading.Thread(target=self._watch_or_end, name="supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _take_signals(self) -> None:
        self._wakes.settimeout(SECONDS_BETWEEN_LOOKS)
        self._signals.setblocking(False)
        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS_TO_STOP:
            # The byte in the socket says it all; a handler there must be, or the default is to die.
            signal.signal(number, _ignore)

    def _watch_or_end(self) -> None:
        try:
            self._watch()
        except Exception:
            # Ranks that nobody watches must not run on.
            traceback.print_exc()
            self._clean_up()
            os._exit(1)

    def _watch(self) -> None:
        while not self._ended.is_set():
            if self._is_signalled():
                self._told_at = self._told_at or time.monotonic()
            if time.monotonic() > self._noted_at + SECONDS_BETWEEN_NOTES:
                self._note_segments()
            if self._told_at is not None:
                self._stop(time.monotonic() - self._told_at)
            else:
                self._end_when_silent()

    def _is_signalled(self) -> bool:
        numbers = b""
        with contextlib.suppress(TimeoutError):
            numbers = self._wakes.recv(1024)
        return any(number in numbers for number in SIGNALS_TO_STOP)

    def _note_segments(self) -> None:
        self._segments.note(descendants())
        self._noted_at = time.monotonic()

    def _kill(self) -> None:
        self._note_segments()
        signal_each(descendants(), signal.SIGKILL)

    def _stop(self, seconds: float) -> None:
        # The ranks alone: a rank whose loaders are gone can't finish its step.
        ranks = [rank for rank in psutil.Process().children() if rank.pid not in self._told]
        signal_each(ranks, signal.SIGTERM)
        self._told |= {rank.pid for rank in ranks}
        is_over = seconds > self._limits.preemption_grace_seconds
        if is_over:
            self._kill()
        if is_over or not self._told:
            # torchrun may be waiting for other nodes, or not have started its ranks yet.
            self._exit_unless_ended()

    def _exit_unless_ended(self) -> None:
        if not self._ended.wait(SECONDS_TO_LET_GO):
            self._clean_up()
            os._exit(os.EX_TEMPFAIL)

    def _end_when_silent(self) -> None:
        silence = self._heartbeats.silence()
        if silence is not None:
            emit("silence", silence)
            self._kill()
            self._ended.wait(SECONDS_TO_LET_GO)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
