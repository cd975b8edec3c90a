"""Attempts at an artifact: where they write, and the removal of those that a crash left behind."""

import os
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Where a stage writes while it runs."""

    folder: Path
    """Becomes the artifact's files when the stage ends."""
    state: Path
    """Private to the stage, on this machine, survives a crash, removed on commit."""
    state_uri: str
    """The same at the root, where other machines find it: checkpoints to resume from."""
    components: list[str] = field(default_factory=list)
    """Receives `kind/identity` of the artifacts whose files the new one refers to."""


def attempt_name() -> str:
    """Returns a folder name that says who writes there: machine, process, and a random part."""
    return f"attempt-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def remove_stale_attempts(home: Path) -> None:
    """Deletes this machine's earlier attempts below `home`.

    Only to be called under the artifact's file lock: whoever wrote them is then gone.
    """
    for path in home.glob(f"attempt-{_machine()}-*"):
        shutil.rmtree(path)
    for draft in home.glob("manifest.json.*"):
        draft.unlink()


def _machine() -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
