"""An exported folder on the Hugging Face hub or on object storage."""

import os
import re
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from turbosparse.artifacts.endpoint import open_filesystem
from turbosparse.config.uri import check_uri
from turbosparse.errors import ArtifactError, ConfigError, TurboSparseError

HUB = "hf://"
TOKEN = "HF_TOKEN"  # noqa: S105 - the variable's name
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
READ_FIRST = ("model.safetensors.index.json", "config.json")
"""What a reader looks for first is uploaded last, so that an interrupted upload is no model."""


def check_destination(uri: str) -> None:
    """Refuses a destination that can't be written or already holds something, before anything is exported.

    Raises:
        ConfigError: It is not a URI, or a token is missing.
        ArtifactError: There is something already, or the destination can't be reached.
    """
    check_uri(uri, "--upload")
    if uri.startswith(HUB):
        _hub(uri)
        return
    fs, path = _open(uri)
    try:
        is_there = fs.exists(path) and bool(fs.find(path))
    except OSError as error:
        raise _unreachable(uri, error) from error
    if is_there:
        raise ArtifactError("--upload", uri, "an empty or new place", "give another place")


def upload_folder(folder: Path, uri: str) -> None:
    """Uploads every file of `folder` to hf://owner/name, or to any place that fsspec writes to.

    On the hub all files appear in one commit. On object storage the files appear one by one, those that a
    reader looks for first at the end; after an error what was uploaded is removed.

    Raises:
        ArtifactError: The destination can't be written.
    """
    if uri.startswith(HUB):
        _upload_to_hub(folder, uri)
        return
    fs, path = _open(uri)
    uploaded: list[str] = []
    try:
        for file in in_order(folder):
            name = f"{path.rstrip('/')}/{file.relative_to(folder).as_posix()}"
            uploaded.append(name)
            if isinstance(
                fs, LocalFileSystem
            ):  # elsewhere folders need no making, and a bucket must not be made
                fs.makedirs(name.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(file), name)
    except BaseException as error:
        for name in uploaded:
            if fs.exists(name):
                fs.rm_file(name)
        if isinstance(error, OSError):
            raise _unreachable(uri, error) from error
        raise


def in_order(folder: Path) -> list[Path]:
    """Returns a folder's files as they are to be uploaded."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: READ_FIRST.index(path.name) + 1 if path.name in READ_FIRST else 0)


def _upload_to_hub(folder: Path, uri: str) -> None:
    hub, repository = _hub(uri)
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="TurboSparse export")
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(uri, error) from error


def _hub(uri: str) -> tuple[HfApi, str]:
    repository = uri.removeprefix(HUB).strip("/")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ConfigError("--upload", uri, "hf://OWNER/NAME", "name one repository of the hub")
    token = os.environ.get(TOKEN)
    if not token:
        expected = f"a token that may write there, in the environment's {TOKEN}"
        raise ConfigError("--upload", uri, expected, f"set {TOKEN}")
    return HfApi(token=token), repository


def _open(uri: str) -> tuple[AbstractFileSystem, str]:
    if "://" not in uri:
        remedy = "leave --upload out to have the folder on this machine alone"
        raise ConfigError("--upload", uri, "hf://OWNER/NAME or a URI such as s3://BUCKET/PREFIX", remedy)
    try:
        fs, path = open_filesystem(uri)
    except TurboSparseError:
        raise
    except (ValueError, ImportError) as error:
        remedy = f"install what reads it ({error})"
        raise ConfigError("--upload", uri, "a kind of URI that fsspec knows", remedy) from error
    return fs, path


def _unreachable(uri: str, error: Exception) -> ArtifactError:
    # The exception's own text may quote request headers: its kind says enough.
    remedy = f"check the place, its permissions and the network ({type(error).__name__})"
    return ArtifactError("--upload", uri, "a place that can be written", remedy)
