"""Model folders written from other model folders, with as little memory for 90 GB as for 90 MB."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from turbosparse.artifacts.files import copy_own_file
from turbosparse.artifacts.store import DISK_REFUSES
from turbosparse.errors import ArtifactError, ModelError
from turbosparse.model.configuration import TurboSparseMixtralConfig
from turbosparse.model.folder import check_model_folder, open_folder
from turbosparse.model.layout import OurConfig, from_ours, our_class
from turbosparse.model.released import RELEASED_TYPES, config_to_released
from turbosparse.model.shards import SHARD_BYTES, StoredTensor, write_shards
from turbosparse.scratch import scratch_folder


def write_released(source: str | Path, target: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes one of our folders to `target` in the layout of the released TurboSparse models.

    Weights stay bit for bit. A model without predictors is written without them.

    Raises:
        ModelError: The model has something that the released layout can't say.
        ArtifactError: The target exists and is not an empty folder.
    """
    config, tensors = open_folder(source)
    values = config_to_released(config)
    laid_out = from_ours(tensors, per_expert=isinstance(config, TurboSparseMixtralConfig))
    write_folder(values, laid_out, Path(source), target, shard_bytes)


def write_native(source: str | Path, target: Path, shard_bytes: int = SHARD_BYTES) -> OurConfig:
    """Writes a released TurboSparse folder to `target` in our own layout; weights stay bit for bit.

    Raises:
        ModelError: The source is not such a folder.
        ArtifactError: The target exists and is not an empty folder.
    """
    model_type = check_model_folder(source)["model_type"]
    if model_type not in RELEASED_TYPES:
        expected = f"one of {', '.join(RELEASED_TYPES)}"
        raise ModelError("model_type", model_type, expected, "give a released TurboSparse folder")
    config, tensors = open_folder(source)
    write_folder(our_values(config), tensors, Path(source), target, shard_bytes)
    return config


def our_values(config: OurConfig) -> dict[str, Any]:
    """Returns the config.json of a folder in our own layout."""
    values: dict[str, Any] = json.loads(config.to_json_string())
    return values | {"architectures": [our_class(config).__name__]}


def write_folder(
    values: dict[str, Any],
    tensors: dict[str, StoredTensor],
    source: Path,
    target: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a model folder: `values` as config.json, `tensors`, and the source's generation settings.

    Raises:
        ArtifactError: The target exists and is not an empty folder.
    """
    with whole_folder(target) as folder:
        write_shards(tensors, folder, shard_bytes)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if (source / "generation_config.json").is_file():
            copy_own_file(source, "generation_config.json", folder)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `target` once it is whole; after an error nothing is left.

    Raises:
        ArtifactError: The target exists and is not an empty folder, or the disk is full or read-only.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError("target", str(target), "an empty or new folder", "give another folder")
    target = target.resolve()
    try:
        with scratch_folder(f".{target.name}-draft-", target.parent) as draft:
            folder = draft / target.name
            folder.mkdir()
            yield folder
            folder.rename(target)  # also where `target` is an empty folder
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        expected, remedy = f"a disk that takes it ({error.strerror})", "free space or give another folder"
        raise ArtifactError("target", str(target), expected, f"{remedy}; nothing was left there") from error
