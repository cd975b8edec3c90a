"""A model that is evaluated in place of the run's own: an artifact, a training's checkpoint, or a folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.lineage import spec_of
from turbosparse.artifacts.place import Place
from turbosparse.artifacts.reading import MANIFEST
from turbosparse.config import Placement
from turbosparse.errors import DataError
from turbosparse.stages.inputs import MODEL_FILES, digest_folder

if TYPE_CHECKING:
    from turbosparse.train.checkpoints import Checkpoint

FIELD = "placement.evaluated_model"
CONFIG = "model/config.json"


@dataclass(frozen=True)
class Evaluated:
    """What the placement names; one of the three is there."""

    artifact: ArtifactSpec | None = None
    folder: Path | None = None
    checkpoint: "Checkpoint | None" = None

    @property
    def digest(self) -> str | None:
        """Returns the digest of what is no artifact; None of one, whose identity says more."""
        if self.folder is not None:
            return digest_folder(str(self.folder), MODEL_FILES)
        if self.checkpoint is not None:
            return hashlib.sha256(self.checkpoint.manifest.model_dump_json().encode()).hexdigest()
        return None

    def model_folder(self, state: Path, tokenizer: Path) -> Path:
        """Returns the model of what is no artifact as a Hugging Face folder with its tokenizer.

        Args:
            state: where a checkpoint is assembled.
            tokenizer: a checkpoint's.
        """
        if self.checkpoint is None:
            assert self.folder is not None
            return self.folder
        # torch and transformers take seconds, and most runs evaluate what they made.
        from turbosparse.export.huggingface import copy_tokenizer  # noqa: PLC0415
        from turbosparse.train.checkpoints import assemble_model  # noqa: PLC0415

        target = state / "model"
        assemble_model(self.checkpoint, "model/", target, ("config.json", "generation_config.json"))
        copy_tokenizer(tokenizer, target)
        return target


def find_evaluated(placement: Placement, store: Store) -> Evaluated | None:
    """Returns what the placement names; None where it names nothing.

    Raises:
        DataError: It names nothing that has a model, or something below another root.
        ArtifactError: The artifact is damaged.
    """
    named = placement.evaluated_model
    if named is None:
        return None
    if (Path(named) / "config.json").is_file():
        return Evaluated(folder=Path(named))
    name = _name_below(store, named)
    if Place.open(store.root).exists(name, MANIFEST):
        return Evaluated(artifact=_artifact_with_model(store, named, name))
    from turbosparse.train.checkpoints import CheckpointStore  # noqa: PLC0415 - torch takes seconds

    kind, _, identity = name.partition("/")
    newest = CheckpointStore(f"{store.place(kind)}/{identity}/state/checkpoints", identity).latest()
    if newest is None:
        expected = "an artifact, a training with a checkpoint, or a folder with config.json"
        raise DataError(FIELD, named, expected, "see turbosparse store ls")
    return Evaluated(checkpoint=newest)


def _name_below(store: Store, named: str) -> str:
    root, _, identity = named.rstrip("/").rpartition("/")
    root, _, kind = root.rpartition("/")
    if not root or not kind or Store(root).root != store.root:
        expected = f"<kind>/<identity> below {store.root}, or a folder with config.json"
        raise DataError(FIELD, named, expected, "give the model's own root as --root")
    return f"{kind}/{identity}"


def _artifact_with_model(store: Store, named: str, name: str) -> ArtifactSpec:
    if CONFIG not in store.load(name).manifest.files:
        expected = "an artifact with a model: base, convert, pretrain, finetune"
        raise DataError(FIELD, named, expected, "see turbosparse store ls")
    return spec_of(store, name)
