"""Folders that exist whole or not at all."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from turbosparse.artifacts.store import DISK_REFUSES
from turbosparse.errors import ArtifactError
from turbosparse.model.rewrite import whole_folder


@contextmanager
def whole_target(target: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `target` once it is whole; after an error nothing is left.

    Raises:
        ArtifactError: The target exists and is not an empty folder, or the disk is full.
    """
    try:
        with whole_folder(target) as folder:
            yield folder
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        remedy = "free space or give another folder; nothing was left there"
        raise ArtifactError(
            "target", str(target), f"a disk that takes the export ({error.strerror})", remedy
        ) from error


def save_tensors(content: Any, path: Path) -> None:
    """Writes tensors, or a dict of them, as `torch.load` reads them with weights_only."""
    # On a full disk torch.save raises its own error; a file's own write says what is the matter.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())
