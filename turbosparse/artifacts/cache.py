"""Copies of remote artifacts on this machine: shared by its processes, bounded, the oldest first to go."""

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from turbosparse.artifacts.files import temporary_home, verify_file
from turbosparse.artifacts.manifest import Manifest
from turbosparse.errors import ArtifactError, ConfigError

FOLDER_VARIABLE = "TURBOSPARSE_CACHE"
LIMIT_VARIABLE = "TURBOSPARSE_CACHE_GIB"
DEFAULT_LIMIT_GIB = 100.0
_LOCK = ".lock"
_HELD: dict[Path, FileIO] = {}
"""Locks of this process, whichever stores it has opened."""


@dataclass(frozen=True)
class LocalCache:
    """One folder for each attempt of a remote artifact. What a living process uses is never removed."""

    home: Path
    limit_bytes: int

    @classmethod
    def open(cls, root: str, limit_gib: float | None = None) -> "LocalCache":
        """Returns the machine's cache for artifacts of a root.

        Args:
            root: the store's URI.
            limit_gib: what all folders together may take; none: TURBOSPARSE_CACHE_GIB, else 100.

        Raises:
            ConfigError: TURBOSPARSE_CACHE_GIB is no positive number.
        """
        base = os.environ.get(FOLDER_VARIABLE) or temporary_home("turbosparse-cache")
        limit = limit_gib if limit_gib is not None else _limit_of_environment()
        # Folders of all roots compete for the same space.
        prefix = "".join(letter if letter.isalnum() else "-" for letter in root)
        return cls(Path(base) / prefix, round(limit * 1024**3))

    def folder(self, name: str, size_bytes: int = 0) -> Path:
        """Returns the folder of that name, held until this process ends.

        Before a folder is made, those that were used least recently are removed until it fits.

        Args:
            name: path of the folder, below the root's own.
            size_bytes: what is to be put into it.
        """
        folder = self.home / name
        if folder not in _HELD:
            if not folder.exists():
                self.trim(size_bytes)
            _HELD[folder] = _hold(folder)
        return folder

    def trim(self, room_bytes: int = 0) -> list[Path]:
        """Removes unused folders until there is room within the limit; returns the removed."""
        locks = sorted(self.home.parent.glob(f"*/**/{_LOCK}"), key=_last_used)
        sizes = {lock.parent: _size_bytes(lock.parent) for lock in locks}
        excess, removed = sum(sizes.values()) + room_bytes - self.limit_bytes, []
        for folder, size in sizes.items():
            if excess > 0 and _remove_unless_held(folder):
                excess -= size
                removed.append(folder)
        return removed


def missing_files(manifest: Manifest, folder: Path) -> list[str]:
    """Returns the files that no process has fetched into the folder yet, or that were damaged since."""
    missing = []
    for path, record in manifest.files.items():
        try:
            verify_file(folder / path, record)
        except ArtifactError:
            missing.append(path)
    return missing


def _limit_of_environment() -> float:
    text = os.environ.get(LIMIT_VARIABLE, "")
    with suppress(ValueError):
        limit = float(text) if text else DEFAULT_LIMIT_GIB
        if limit > 0:
            return limit
    raise ConfigError(LIMIT_VARIABLE, text, "a positive number of GiB", "correct it or unset it")


def _hold(folder: Path) -> FileIO:
    """Locks a folder against removal; the kernel lets go of it when this process ends, however it does."""
    path = folder / _LOCK
    while True:
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            lock = path.open("ab", buffering=0)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _is_at(lock, path):
                os.utime(path)
                return lock
            # Another process has removed the folder between the two calls.
            lock.close()


def _remove_unless_held(folder: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError), (folder / _LOCK).open("ab", buffering=0) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Out of sight at once: who asks for it meanwhile begins with an empty folder.
        doomed = folder.rename(folder.with_name(f"{folder.name}.{secrets.token_hex(4)}"))
        shutil.rmtree(doomed)
        return True
    return False


def _is_at(lock: FileIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    return False


def _last_used(lock: Path) -> float:
    with suppress(FileNotFoundError):
        return lock.stat().st_mtime
    return 0.0


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total
