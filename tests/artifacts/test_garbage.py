"""Collecting garbage: never what something kept was made from, never half an artifact."""

from datetime import timedelta

import pytest

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.artifacts.garbage import delete, find_garbage
from turbosparse.artifacts.lineage import ancestor, spec_of
from turbosparse.artifacts.place import Place

NO_AGE = timedelta(0)


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path) -> Store:
    return Store(request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path))


def make(
    store: Store, kind: str, label: str = "", components: tuple[str, ...] = (), **parents
) -> ArtifactSpec:
    def build(workspace: Workspace) -> dict:
        workspace.components.extend(components)
        (workspace.folder / "file").write_text(kind + label)
        return {}

    spec = ArtifactSpec(kind, 1, {"label": label}, parents)
    store.produce(spec, build)
    return spec


@pytest.fixture
def chain(store) -> dict[str, ArtifactSpec]:
    """Two models over one corpus over one group of tokens, which was made from documents."""
    documents = make(store, "documents")
    tokens = make(store, "tokens", documents=documents)
    corpus = make(store, "prepare", components=(tokens.name,))
    old, new = (make(store, "pretrain", label, corpus=corpus) for label in ("old", "new"))
    return {"documents": documents, "tokens": tokens, "corpus": corpus, "old": old, "new": new}


def names(found) -> list[str]:
    return [manifest.name for manifest in found]


def test_all_that_the_kept_was_made_from_stays_components_and_their_parents_too(store, chain):
    garbage = find_garbage(store, [chain["new"].name], NO_AGE)
    assert names(garbage) == [chain["old"].name]
    delete(store, garbage)
    left = Store(store.root)
    assert set(names(left.manifests())) == {chain[name].name for name in chain if name != "old"}
    assert left.load(chain["new"].name).folder().is_dir()
    assert spec_of(left, chain["new"].name) == chain["new"]


def test_descendants_go_before_what_they_were_made_from(store, chain):
    order = names(find_garbage(store, [], NO_AGE))
    assert set(order) == {spec.name for spec in chain.values()}
    place = {name: number for number, name in enumerate(order)}
    assert place[chain["new"].name] < place[chain["corpus"].name]
    assert place[chain["corpus"].name] < place[chain["tokens"].name] < place[chain["documents"].name]


def test_what_is_young_stays(store, chain):
    assert find_garbage(store, [], timedelta(days=1)) == []


def test_a_deletion_cut_short_leaves_no_half_artifact(store, chain, monkeypatch):
    garbage = find_garbage(store, [], NO_AGE)
    removed, remove = [], Place.remove

    def remove_once(place: Place, *parts: str) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(parts)
        remove(place, *parts)

    monkeypatch.setattr(Place, "remove", remove_once)
    with pytest.raises(KeyboardInterrupt):
        delete(store, garbage)
    left = Store(store.root)
    assert garbage[0].name not in names(left.manifests())
    for manifest in left.manifests():
        assert left.load(manifest.name).folder().is_dir()


def test_the_nearest_ancestor_is_found(store):
    first = make(store, "pretrain", "first")
    second = make(store, "pretrain", "second", model=first)
    tuned = make(store, "finetune", model=second)
    assert ancestor(spec_of(store, tuned.name), "pretrain") == second
    assert ancestor(second, "pretrain") == first
    assert ancestor(first, "pretrain") is None
