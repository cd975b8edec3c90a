"""Places inside artifacts that other machines can find: a path on a shared disk, or a URI to fetch from."""

import re
from pathlib import Path

from turbosparse.artifacts.store import Store

_INSIDE = re.compile(r"(?P<root>.+)/(?P<name>[a-z][a-z0-9-]*/[0-9a-f]{16})(/(?P<rest>.*))?")


def origin_of(store: Store, path: Path) -> str:
    """Returns where another machine finds a path inside an artifact that this one has fetched.

    On a local root, and outside of artifacts, that is the path itself.
    """
    found = store.fetched_name(path) if store.local_root is None else None
    if found is None:
        return str(path)
    name, rest = found
    return f"{store.root}/{name}/{rest}"


def fetch_origin(origin: str) -> Path:
    """Returns a local path for what `origin_of` gave, its artifact fetched and every digest checked.

    Raises:
        ArtifactError: The artifact is gone, or a file is missing or corrupt.
    """
    if "://" not in origin:
        return Path(origin)
    inside = _INSIDE.fullmatch(origin)
    assert inside is not None, origin
    artifact = Store(inside["root"]).load(f"{inside['root']}/{inside['name']}")
    return artifact.folder() / (inside["rest"] or "")
