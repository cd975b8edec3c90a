"""Places that a run may be given: which kinds of URI, and where the operator draws the line.

A run's places come from whoever starts it, perhaps in a form of the Prefect UI; they are opened with the
worker's credentials. So they hold none of their own, they chain no file systems, and an operator can say
which are allowed at all.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from turbosparse.errors import ConfigError
from turbosparse.masking import holds_secret, mask

ALLOWED_VARIABLE = "TURBOSPARSE_ALLOWED_URIS"
"""Prefixes of URIs and folders, separated by blanks: nothing else is opened. Unset: any of PROTOCOLS."""
PROTOCOLS = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "https", "memory")
"""Kinds of storage that are opened where nothing else is allowed."""
SERVICES = ("http", "https", "tcp", "tls")
"""Kinds of services that are talked to."""


def check_uri(uri: str, field: str = "", protocols: tuple[str, ...] = PROTOCOLS) -> str:
    """Returns the path or URI if it may be opened.

    Args:
        uri: A path, or an fsspec URI.
        field: What the error calls it; empty where the configuration knows.
        protocols: Kinds of URI that are known.

    Raises:
        ConfigError: It carries credentials, chains file systems, is of an unknown kind, climbs with `..`,
            or is not among the places of TURBOSPARSE_ALLOWED_URIS.
    """
    protocol, separator, rest = uri.partition("://")
    if holds_secret(uri):
        remedy = "set them in the environment, and give the place alone"
        raise ConfigError(field, mask(uri), "a place without credentials", remedy)
    if "\0" in uri or "::" in uri:
        raise ConfigError(field, uri, "one place, not a chain of file systems", "fetch it first")
    if separator and ".." in rest.split("/"):
        raise ConfigError(field, uri, "a URI without `..`", "name the place itself")
    allowed = os.environ.get(ALLOWED_VARIABLE, "").split()
    if allowed:
        _check_allowed(uri, allowed, field)
    elif separator and protocol not in protocols:
        expected = f"a path, or a URI of {', '.join(protocols)}"
        raise ConfigError(field, uri, expected, f"allow its place with {ALLOWED_VARIABLE}")
    return uri


def _check_allowed(uri: str, allowed: list[str], field: str) -> None:
    place = _comparable(uri)
    if not any(place.startswith(_comparable(prefix)) for prefix in allowed):
        remedy = f"use one of these, or have the operator change {ALLOWED_VARIABLE}"
        raise ConfigError(field, uri, f"a place below {' or '.join(allowed)}", remedy)


def _comparable(place: str) -> str:
    """Returns a place that others below it begin with; links in paths are followed."""
    is_path = "://" not in place or place.startswith("file://")
    if is_path:
        place = str(Path(place.removeprefix("file://")).resolve())
    return f"{place.rstrip('/')}/"


# So that a server refuses it before it is stored: validators run where the flow does.
_IN_FORMS = Field(json_schema_extra={"pattern": r"^(?!.*://[^/]*@)"})

Uri = Annotated[str, AfterValidator(check_uri), _IN_FORMS]
"""A path or fsspec URI that may be opened; without credentials."""
Address = Annotated[str, AfterValidator(partial(check_uri, protocols=SERVICES)), _IN_FORMS]
"""Where a service listens, if it may be talked to; without credentials."""
