"""Tensors as files that other programs read."""

import io
from pathlib import Path
from typing import Any

import torch


def save_tensors(content: Any, path: Path) -> None:
    """Writes tensors, or a dict of them, as `torch.load` reads them with weights_only."""
    # On a full disk torch.save raises its own error; a file's own write says what is the matter.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())
