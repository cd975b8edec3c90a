"""Shared memory that killed ranks leave behind: found while they live, removed when nobody uses it.

streaming removes its segments in `atexit` handlers, which a kill skips, and its own remedy clears every
job's segments on the host.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory


class Segments:
    """The shared memory segments that some processes were seen to use."""

    def __init__(self) -> None:
        self._seen: set[Path] = set()

    def note(self, processes: Iterable[psutil.Process]) -> None:
        """Remembers what the processes have mapped."""
        self._seen |= {segment for process in processes for segment in _mapped(process.pid)}

    def remove_unused(self) -> None:
        """Removes those that no living process has mapped: other jobs keep theirs."""
        left = {segment for segment in self._seen if segment.exists()}
        if left:
            left -= {segment for process in psutil.process_iter() for segment in _mapped(process.pid)}
        for segment in left:
            segment.unlink(missing_ok=True)


def _mapped(pid: int) -> set[Path]:
    lines: list[str] = []
    # Processes end at any time, and others' can't be read; theirs are not ours to remove either.
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    prefix = f"{FOLDER}/"
    paths = {line.split(maxsplit=5)[-1] for line in lines if prefix in line}
    return {Path(path) for path in paths if path.startswith(prefix) and not path.endswith(" (deleted)")}
