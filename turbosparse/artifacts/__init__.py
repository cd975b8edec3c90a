"""Content-addressed folders behind a URI: everything that passes between stages."""

from turbosparse.artifacts.attempts import Workspace
from turbosparse.artifacts.manifest import ArtifactSpec, FileRecord, Manifest
from turbosparse.artifacts.origins import fetch_origin, origin_of
from turbosparse.artifacts.reading import Artifact, StoreReader
from turbosparse.artifacts.store import Store

__all__ = [
    "Artifact",
    "ArtifactSpec",
    "FileRecord",
    "Manifest",
    "Store",
    "StoreReader",
    "Workspace",
    "fetch_origin",
    "origin_of",
]
