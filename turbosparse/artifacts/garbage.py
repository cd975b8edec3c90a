"""Committed artifacts that nothing kept was made from: found, and deleted descendants first."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from turbosparse.artifacts.manifest import Manifest
from turbosparse.artifacts.place import Place
from turbosparse.artifacts.reading import MANIFEST
from turbosparse.artifacts.store import Store


def find_garbage(store: Store, kept: Collection[str], min_age: timedelta) -> list[Manifest]:
    """Returns what may be deleted: neither kept nor young, nor an ancestor or a component of what is.

    Args:
        store: the artifacts.
        kept: `kind/identity` of those to keep whatever their age.
        min_age: younger ones are kept.

    Returns:
        Each artifact before those that it was made from: deleted in this order, no artifact ever lacks one.
    """
    manifests = {manifest.name: manifest for manifest in store.manifests()}
    before = datetime.now(UTC) - min_age
    young = [name for name, found in manifests.items() if datetime.fromisoformat(found.created_at) > before]
    needed = _with_ancestors([*kept, *young], manifests)
    garbage = [name for name in manifests if name not in needed]
    return [manifests[name] for name in _descendants_first(garbage, manifests)]


def delete(store: Store, garbage: Iterable[Manifest]) -> None:
    """Deletes artifacts in the given order; one whose deletion is cut short is no artifact any longer."""
    place = Place.open(store.root)
    for manifest in garbage:
        place.remove(manifest.name, MANIFEST)
        place.remove(manifest.name)


def _sources(manifest: Manifest) -> list[str]:
    return [*manifest.parents.values(), *manifest.components]


def _with_ancestors(names: Iterable[str], manifests: dict[str, Manifest]) -> set[str]:
    needed, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed and name in manifests:
            needed.add(name)
            waiting += _sources(manifests[name])
    return needed


def _descendants_first(names: list[str], manifests: dict[str, Manifest]) -> list[str]:
    order: dict[str, None] = {}
    waiting = [(name, False) for name in names]
    while waiting:
        name, are_sources_placed = waiting.pop()
        if are_sources_placed:
            order.setdefault(name)
        elif name in manifests and name not in order:
            waiting.append((name, True))
            waiting += [(source, False) for source in _sources(manifests[name])]
    wanted = set(names)
    return [name for name in reversed(order) if name in wanted]
