"""What the store knows of a model folder: the stages behind it, and what was measured of it."""

from pathlib import Path

from turbosparse.artifacts import Manifest, Store
from turbosparse.artifacts.reading import MANIFEST


def lineage_of(model_folder: Path) -> list[Manifest]:
    """Returns the manifests of a model in a local store, its ancestors and its latest evaluation.

    Empty for a folder outside a store: of such a model nothing is known.
    """
    # <root>/<kind>/<identity>/<attempt>/model
    folder = model_folder.resolve()
    if len(folder.parents) < 4 or not (folder.parents[1] / MANIFEST).is_file():
        return []
    store = Store(str(folder.parents[3]))
    manifest = store.load(f"{folder.parents[2].name}/{folder.parents[1].name}").manifest
    evaluations = [
        found
        for found in store.manifests()
        if found.kind == "evaluate" and found.parents.get("model") == manifest.name
    ]
    heads = [*evaluations[-1:], manifest]
    found = [ancestor for head in heads for _, _, ancestor in store.lineage(head)]
    return list({ancestor.name: ancestor for ancestor in found}.values())
