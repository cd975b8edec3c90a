"""Folders for temporary files that a killed process does not leave for good.

A folder is locked by who uses it for as long as that process lives, however it ends: one that can be locked
by another is nobody's, and is deleted by the next who wants one of its kind.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

OnAbandoned = Callable[[Path], None]


def _only_delete(folder: Path) -> None:
    pass


@contextmanager
def scratch_folder(
    prefix: str, parent: Path | None = None, on_abandoned: OnAbandoned = _only_delete
) -> Iterator[Path]:
    """Gives an empty folder that is gone after the block; deletes those that killed processes left.

    Args:
        prefix: What its name begins with: folders of one prefix are of one kind.
        parent: Where it lies; None: where temporary files go.
        on_abandoned: Hears of every folder that was left, before it is deleted.
    """
    home = parent or Path(tempfile.gettempdir())
    home.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(home, prefix, on_abandoned)
    folder = home / f"{prefix}{secrets.token_hex(4)}"
    # Locked under a name that nobody looks for: between making and locking it would seem abandoned.
    draft = home / f".new-{folder.name}"
    draft.mkdir(mode=0o700)
    lock = _try_lock(draft)
    draft.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _delete_abandoned(home: Path, prefix: str, on_abandoned: OnAbandoned) -> None:
    for folder in home.glob(f"{escape(prefix)}*"):
        # Others may delete it at the same time; what belongs to other users is theirs.
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            lock = _try_lock(folder)
            if lock is not None:
                try:
                    on_abandoned(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """Returns the descriptor that holds the folder's lock; None where another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks: then nothing there is ever taken for abandoned
        os.close(descriptor)
        return None
    return descriptor
