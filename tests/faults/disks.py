"""Small disks, to be filled."""

import subprocess
from pathlib import Path

import pytest


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")

    def remount(self, options: str) -> None:
        """Changes the size (`size=8m`), or whether it can be written (`ro`, `rw`)."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def unmount(self) -> None:
        """Ends it, whoever may still look."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
