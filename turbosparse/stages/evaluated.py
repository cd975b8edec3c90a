"""A model that is evaluated in place of the run's own: an artifact of the root, or a folder."""

from pathlib import Path

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.lineage import spec_of
from turbosparse.artifacts.opening import open_artifact
from turbosparse.config import Placement
from turbosparse.errors import DataError

CONFIG = "model/config.json"


def evaluated_folder(placement: Placement) -> str | None:
    """Returns the Hugging Face folder that the placement names; None where it names none."""
    named = placement.evaluated_model
    return named if named is not None and (Path(named) / "config.json").is_file() else None


def evaluated_artifact(placement: Placement, store: Store) -> ArtifactSpec | None:
    """Returns the artifact that the placement names; None where it names none, or a folder.

    Raises:
        DataError: It names neither, or an artifact of another root or without a model.
    """
    named = placement.evaluated_model
    if named is None or evaluated_folder(placement) is not None:
        return None
    field, remedy = "placement.evaluated_model", "see turbosparse store ls"
    try:
        found = open_artifact(named)
    except DataError as error:
        expected = "<root>/<kind>/<identity>, or a folder with config.json"
        raise DataError(field, named, expected, remedy) from error
    if found.store.root != store.root:
        raise DataError(field, named, f"an artifact below {store.root}", "give its own root as --root")
    if CONFIG not in found.manifest.files:
        raise DataError(field, named, "an artifact with a model: base, convert, pretrain, finetune", remedy)
    return spec_of(store, found.manifest.name)
