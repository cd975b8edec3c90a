"""Shared memory that killed ranks leave behind: noted while they live, removed when nobody uses it.

streaming removes its segments in `atexit` handlers, which a kill skips, and its own remedy clears every
job's segments on the host.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it
FOLDER = "TURBOSPARSE_SEGMENTS"
"""Names the folder of notes to the ranks."""
_NOTE = "segments-"


def note_own_segments() -> None:
    """Notes what this rank has mapped, as it may be killed before its agent looks; alone, does nothing."""
    folder = os.environ.get(FOLDER)
    if folder is not None:
        Segments(Path(folder)).note([psutil.Process()])


class Segments:
    """The shared memory segments that some processes were seen to use.

    Notes of them lie in a folder: whoever cleans up after a killed agent reads them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: set[Path] = set()

    def note(self, processes: Iterable[psutil.Process]) -> None:
        """Remembers what the processes have mapped."""
        found = {segment for process in processes for segment in _mapped(process.pid)} - self._noted
        if found:
            self._noted |= found
            text = "\n".join(sorted(map(str, self._noted)))
            (self._folder / f"{_NOTE}{os.getpid()}").write_text(text, encoding="utf-8")

    def remove_unused(self) -> None:
        """Removes those that no living process has mapped: other jobs keep theirs."""
        left = {segment for segment in self._seen() if segment.exists()}
        if left:
            left -= {segment for process in psutil.process_iter() for segment in _mapped(process.pid)}
        for segment in left:
            segment.unlink(missing_ok=True)

    def _seen(self) -> set[Path]:
        notes = self._folder.glob(f"{_NOTE}*")
        return {Path(line) for note in notes for line in note.read_text(encoding="utf-8").splitlines()}


def _mapped(pid: int) -> set[Path]:
    lines: list[str] = []
    # Processes end at any time, and others' can't be read; theirs are not ours to remove either.
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    prefix = f"{SHARED_MEMORY}/"
    paths = {line.split(maxsplit=5)[-1] for line in lines if prefix in line}
    return {Path(path) for path in paths if path.startswith(prefix) and not path.endswith(" (deleted)")}
