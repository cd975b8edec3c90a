"""What a pipeline run left in the store, found from an artifact or a root."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbosparse.artifacts import Manifest, StoreReader
from turbosparse.artifacts.opening import open_artifact
from turbosparse.artifacts.reading import MANIFEST
from turbosparse.errors import ArtifactError

LAST_KINDS = ("export", "evaluate", "finetune", "pretrain")
"""What a pipeline run ends with, or with less of it where it has not come to its end."""


@dataclass(frozen=True)
class PipelineRun:
    """An artifact and all that it was made from."""

    store: StoreReader
    last: Manifest
    stages: dict[str, Manifest]
    """By kind: of several, the one nearest to the last."""
    base_evaluation: Manifest | None
    """The original model's evaluation, where there is one."""

    @property
    def uri(self) -> str:
        """The last artifact's URI."""
        return f"{self.store.root}/{self.last.name}"

    def metrics(self, kind: str) -> dict[str, Any] | None:
        """Returns what a stage measured; None where it did not run."""
        manifest = self.stages.get(kind)
        return manifest.metrics if manifest else None

    def file(self, kind: str, name: str) -> Path | None:
        """Returns a stage's file on this machine, its digest checked; None where there is none."""
        manifest = self.stages.get(kind)
        if manifest is None or name not in manifest.files:
            return None
        return self.store.file(manifest, name)

    def json(self, kind: str, name: str) -> Any:
        """Returns the content of a stage's JSON file; None where there is none."""
        path = self.file(kind, name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def open_pipeline(where: str) -> PipelineRun:
    """Returns the run that an artifact belongs to, or the newest run below a root.

    Args:
        where: `<root>/<kind>/<identity>`, or the root.

    Raises:
        ArtifactError: Nothing lies there that a report could be of.
    """
    store, last = _last(where)
    lineage = sorted(store.lineage(last), key=lambda found: found[0], reverse=True)
    stages = {manifest.kind: manifest for _, _, manifest in lineage}
    return PipelineRun(store, last, stages, _base_evaluation(store, stages))


def _last(where: str) -> tuple[StoreReader, Manifest]:
    if _is_artifact(where):
        artifact = open_artifact(where)
        return artifact.store, artifact.manifest
    store = StoreReader(where)
    manifests = store.manifests()
    for kind in LAST_KINDS:
        found = [manifest for manifest in manifests if manifest.kind == kind]
        if found:
            return store, found[-1]
    expected = f"a root with an artifact of {', '.join(LAST_KINDS)}, or such an artifact's URI"
    raise ArtifactError("report", where, expected, "run a pipeline first: turbosparse dry-run")


def _is_artifact(where: str) -> bool:
    """Returns whether a URI ends in kind/identity, or names a folder that a manifest lies in."""
    identity = where.rstrip("/").rpartition("/")[2]
    return (Path(where) / MANIFEST).is_file() or (
        len(identity) == 16 and all(character in "0123456789abcdef" for character in identity)
    )


def _base_evaluation(store: StoreReader, stages: dict[str, Manifest]) -> Manifest | None:
    """Returns the newest evaluation of the model that was converted, by its artifact or its digest."""
    base, converted = stages.get("base"), stages.get("convert")
    source = converted.inputs.get("source") if converted else None
    found = [
        manifest
        for manifest in store.manifests()
        if manifest.kind == "evaluate"
        and (
            (base is not None and manifest.parents.get("model") == base.name)
            or (source is not None and manifest.inputs.get("model") == source)
        )
    ]
    return found[-1] if found else None
