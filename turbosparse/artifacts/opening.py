"""An artifact by its URI alone, wherever its root is."""

from turbosparse.artifacts.reading import Artifact
from turbosparse.artifacts.store import Store
from turbosparse.errors import DataError


def open_artifact(uri: str) -> Artifact:
    """Returns the committed artifact at `<root>/<kind>/<identity>`.

    Raises:
        DataError: It is no such URI.
        ArtifactError: There is none.
    """
    root, _, _ = uri.rstrip("/").rpartition("/")
    root, _, kind = root.rpartition("/")
    if not root or not kind:
        raise DataError("uri", uri, "<root>/<kind>/<identity>", "see turbosparse store ls")
    return Store(root).load(uri)
