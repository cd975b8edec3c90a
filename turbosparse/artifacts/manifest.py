"""What an artifact is made of: the specification that names it, the manifest that commits it."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from turbosparse.config.base import Config


@dataclass(frozen=True)
class ArtifactSpec:
    """Everything that decides an artifact's content, known before it is made.

    Ranks, microbatches and paths are not in here: they do not change what is computed.
    """

    kind: str
    """The stage that makes it."""
    version: int
    """Raised when the stage's code changes what it makes."""
    config: dict[str, Any]
    """The stage's configuration, JSON-able."""
    parents: dict[str, "ArtifactSpec"] = field(default_factory=dict)
    """The artifacts it is made from, by role."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Digests or pinned revisions of what comes from outside the store."""

    @cached_property
    def identity(self) -> str:
        """Digest of the whole specification: 16 hexadecimal digits."""
        return identity_of(self.kind, self.version, self.config, self.parent_names, self.inputs)

    @property
    def name(self) -> str:
        """`kind/identity`: the artifact's place below the root."""
        return f"{self.kind}/{self.identity}"

    @property
    def parent_names(self) -> dict[str, str]:
        """`kind/identity` of each parent, by role."""
        return {role: parent.name for role, parent in self.parents.items()}


def identity_of(
    kind: str, version: int, config: dict[str, Any], parents: dict[str, str], inputs: dict[str, str]
) -> str:
    """Returns the digest of all that decides an artifact's content: 16 hexadecimal digits."""
    decides = {"kind": kind, "version": version, "config": config, "parents": parents, "inputs": inputs}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or not path.isprintable():
        raise ValueError("a path below the artifact's own folder")
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]
NameBelowRoot = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*/[0-9a-f]{16}$")]


class FileRecord(Config):
    """One file of an artifact."""

    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Config):
    """Written last, it is the commit: an attempt without one was never finished."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    version: int
    config: dict[str, Any]
    parents: dict[str, NameBelowRoot]
    inputs: dict[str, str]
    code_version: str
    created_at: str
    """UTC, ISO 8601."""
    attempt: Annotated[str, Field(pattern=r"^attempt-[A-Za-z0-9._-]+$")]
    """The folder that holds this artifact's files."""
    seconds: Annotated[float, Field(ge=0)]
    """Time that making it took."""
    components: tuple[NameBelowRoot, ...] = ()
    """Artifacts whose files this one refers to: it can't be used without them."""
    files: dict[RelativePath, FileRecord]
    metrics: dict[str, Any]
    """What was measured while making it."""

    @property
    def is_of_its_identity(self) -> bool:
        """Whether configuration, parents and inputs are those that the identity is the digest of."""
        expected = identity_of(self.kind, self.version, self.config, self.parents, self.inputs)
        return self.identity == expected

    @property
    def name(self) -> str:
        """`kind/identity`: the artifact's place below the root."""
        return f"{self.kind}/{self.identity}"
