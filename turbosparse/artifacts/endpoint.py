"""Object storage: one endpoint for every library that talks to it, clients that forgive short failures."""

import os
import sys
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from turbosparse.config.uri import check_uri
from turbosparse.errors import ConfigError

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")
"""Amazon's libraries read the first, streaming's shard downloads the second."""

_S3_OPTIONS: dict[str, Any] = {
    # A listing that is kept would hide what other ranks and other machines have written since.
    "use_listings_cache": False,
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 2},
        "connect_timeout": 10,
        "read_timeout": 60,
    },
}


def endpoint_environment(url: str) -> dict[str, str]:
    """Returns the environment variables that lead every library to the object store at `url`."""
    return dict.fromkeys(ENDPOINT_VARIABLES, url)


def use_endpoint(url: str | None) -> None:
    """Leads every library to the object store at `url`; None: leaves it to the environment."""
    if url is not None:
        os.environ.update(endpoint_environment(url))


def share_endpoint() -> None:
    """Makes both endpoint variables say what one of them says.

    Raises:
        ConfigError: They contradict each other: shards and artifacts would go to two places.
    """
    found = {name: os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)}
    if len(set(found.values())) > 1:
        names = " and ".join(ENDPOINT_VARIABLES)
        raise ConfigError(names, found, "one object store", f"unset {ENDPOINT_VARIABLES[1]}")
    for url in found.values():
        os.environ.update(endpoint_environment(url))


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system behind an fsspec URI or a path, and the path in it.

    Credentials come from the environment or the machine's role, never from the URI.

    Raises:
        ConfigError: The endpoint variables contradict each other, or the URI may not be opened.
    """
    if "://" in uri:
        check_uri(uri, "uri")
    share_endpoint()
    options = _S3_OPTIONS if uri.startswith(("s3://", "s3a://")) else {}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def error_code(error: BaseException) -> str | None:
    """Returns what the object store called the error, such as NoSuchKey; None for any other error."""
    code: str | None = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code


def connection_errors() -> tuple[type[Exception], ...]:
    """Returns what a broken connection to an object store raises besides botocore's and Python's own errors.

    s3fs passes on what aiohttp raises where an answer's body ends too early.
    """
    aiohttp = sys.modules.get("aiohttp")  # a fifth of a second to import, and raises nothing before
    return (aiohttp.ClientError,) if aiohttp is not None else ()
