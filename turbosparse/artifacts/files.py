"""Hashing, fetching and atomically committing files, on a local disk or behind fsspec."""

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from turbosparse.artifacts.endpoint import error_code
from turbosparse.artifacts.manifest import FileRecord
from turbosparse.errors import ArtifactError


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Returns size and sha256 of every file below `folder`, each flushed to the disk first."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert not any(path.is_symlink() for path in paths), "links would be read wherever they lead"
    return {path.relative_to(folder).as_posix(): _record(path) for path in paths}


def record_bytes(content: bytes) -> FileRecord:
    """Returns size and sha256 of a file's content."""
    return FileRecord(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def verify_file(path: Path, expected: FileRecord, name: str | None = None) -> None:
    """Reads a file whole and compares it with its record.

    Args:
        path: The file.
        expected: Its record.
        name: What the error calls it, where it is a copy; None: its path.

    Raises:
        ArtifactError: The file is missing, of another size, or of another content.
    """
    shown = name or str(path)
    verify_size(shown, path.stat().st_size if path.is_file() else None, expected)
    actual = _sha256(path)
    if actual != expected.sha256:
        raise _corrupt(shown, f"sha256 {actual}", f"sha256 {expected.sha256}")


def temporary_home(name: str) -> Path:
    """Returns this user's own folder among the temporary files, where its processes find each other's.

    Raises:
        ArtifactError: Somebody else has made it, or may write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    if not is_ours:
        expected = "a folder that this user made and nobody else may write to"
        raise ArtifactError(
            "temporary files", str(folder), expected, "delete it, or set TMPDIR to another place"
        )
    return folder


def check_inside(folder: Path, path: str) -> None:
    """Refuses a file of a folder that a link leads out of it.

    Raises:
        ArtifactError: It does.
    """
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        remedy = "delete the artifact's folder: somebody has tampered with it"
        raise ArtifactError(str(folder / path), "a link out of its folder", "a file", remedy)


def copy_own_file(source: Path, name: str, target: Path) -> None:
    """Copies a file of a folder from outside, unless that is a link to elsewhere on this machine.

    The hub's cache is made of links to its own `blobs`: these are followed.

    Raises:
        ArtifactError: The link leads out of the folder: what it leads to would travel with the copy.
    """
    actual, home = (source / name).resolve(), source.resolve()
    if not any(actual.is_relative_to(place) for place in (home, home.parent.parent / "blobs")):
        expected, remedy = "a file of that folder itself", "put the file there in the link's place"
        raise ArtifactError(str(source / name), f"a link to {actual}", expected, remedy)
    shutil.copyfile(actual, target / name)


def verify_size(path: str, size_bytes: int | None, expected: FileRecord) -> None:
    """Compares a file's size (None: there is no such file) with its record.

    Raises:
        ArtifactError: The file is missing or of another size.
    """
    if size_bytes != expected.size_bytes:
        found = "missing" if size_bytes is None else f"{size_bytes} bytes"
        raise _corrupt(path, found, f"{expected.size_bytes} bytes")


def write_exclusively(fs: AbstractFileSystem, path: str, content: bytes) -> bool:
    """Writes a file at once and whole, unless there is another. Returns whether it is this one."""
    if not isinstance(fs, LocalFileSystem):
        try:
            # s3fs sends If-None-Match: the server itself refuses a second writer.
            fs.pipe_file(path, content, mode="create")
        except OSError as error:
            if not _is_there_already(error):
                raise
        # A request that was repeated, its first answer lost, is refused for what it wrote itself, and
        # not every server looks and writes in one step: what is read back counts.
        return bool(fs.cat_file(path) == content)
    target = Path(path)
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, target)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    flush_folder(target.parent)
    return True


def flush_folder(folder: Path) -> None:
    """Flushes a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_there_already(error: OSError) -> bool:
    # Amazon's answer names the condition, and s3fs says FileExistsError; other servers' do not.
    return isinstance(error, FileExistsError) or error_code(error) == "PreconditionFailed"


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileRecord(size_bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _corrupt(path: str, found: str, expected: str) -> ArtifactError:
    remedy = "delete the artifact's folder and run its stage again: it is made anew"
    return ArtifactError(path, found, expected, remedy)
