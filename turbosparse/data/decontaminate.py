"""The evaluation sets' n-grams as an artifact, which every worker reads."""

from pathlib import Path
from typing import Any

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.config.data import DataConfig
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.cleaning.evaluation_texts import (
    digest_of_texts,
    evaluation_texts,
    hub_evaluation_texts,
)
from turbosparse.data.layout import NGRAMS_NAME
from turbosparse.errors import DataError

NGRAMS_VERSION = 1

Texts = dict[str, list[str]]


def read_evaluation_texts(config: DataConfig, folder: str | None) -> Texts | None:
    """Returns the evaluation sets to decontaminate against, by task; None where that is off.

    Raises:
        DataError: no folder was given, or neither folder nor hub can be read.
    """
    if config.decontaminate == "off":
        return None
    if config.decontaminate == "hub":
        return hub_evaluation_texts()
    if folder is None:
        raise DataError(
            "placement.evaluation_data",
            None,
            "a folder of evaluation sets (data.decontaminate is folder)",
            "give one with --evaluation-data, or set data.decontaminate to hub or off",
        )
    return evaluation_texts(Path(folder))


def evaluation_digest(config: DataConfig, folder: str | None) -> str | None:
    """Returns the sha256 of the texts, None where decontamination is off."""
    texts = read_evaluation_texts(config, folder)
    return None if texts is None else digest_of_texts(texts)


def publish_ngrams(config: DataConfig, folder: str | None, store: Store) -> ArtifactSpec | None:
    """Puts the n-grams into the store; None where decontamination is off."""
    texts = read_evaluation_texts(config, folder)
    if texts is None:
        return None
    spec = ArtifactSpec("evaluation-ngrams", NGRAMS_VERSION, {}, {}, {"texts": digest_of_texts(texts)})

    def build(workspace: Workspace) -> dict[str, Any]:
        contamination = Contamination(texts)
        contamination.save(workspace.folder / NGRAMS_NAME)
        return {
            "num_items": {task: len(items) for task, items in texts.items()},
            "num_too_short": dict(contamination.num_too_short),
        }

    store.produce(spec, build)
    return spec
