"""Names of attempts, and the removal of those that a crash left behind."""

import os
import secrets
import shutil
import socket
from pathlib import Path


def attempt_name() -> str:
    """Returns a folder name that says who writes there: machine, process, and a random part."""
    return f"attempt-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def remove_stale_attempts(home: Path) -> None:
    """Deletes this machine's earlier attempts below `home`.

    Only to be called under the artifact's file lock: whoever wrote them is then gone.
    """
    for path in home.glob(f"attempt-{_machine()}-*"):
        shutil.rmtree(path)


def _machine() -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
