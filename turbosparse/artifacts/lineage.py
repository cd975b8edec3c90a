"""Committed artifacts as specifications again, so that others can be made from them."""

from turbosparse.artifacts.manifest import ArtifactSpec
from turbosparse.artifacts.reading import StoreReader


def spec_of(store: StoreReader, name: str) -> ArtifactSpec:
    """Returns the specification that a committed artifact was made from, its ancestors' included.

    Args:
        store: where it lies.
        name: its `kind/identity`.

    Raises:
        ArtifactError: It or an ancestor is gone or damaged.
    """
    return _spec_of(store, name, {})


def _spec_of(store: StoreReader, name: str, known: dict[str, ArtifactSpec]) -> ArtifactSpec:
    if name in known:
        return known[name]
    manifest = store.load(name).manifest
    parents = {role: _spec_of(store, parent, known) for role, parent in manifest.parents.items()}
    spec = ArtifactSpec(manifest.kind, manifest.version, manifest.config, parents, manifest.inputs)
    assert spec.name == name, "the store checks every manifest's identity"
    known[name] = spec
    return spec


def ancestor(spec: ArtifactSpec, kind: str) -> ArtifactSpec | None:
    """Returns the nearest ancestor of a kind, parents before theirs; None where there is none."""
    generation = list(spec.parents.values())
    while generation:
        for parent in generation:
            if parent.kind == kind:
                return parent
        generation = [elder for parent in generation for elder in parent.parents.values()]
    return None
