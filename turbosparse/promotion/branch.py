"""What a retraining takes over from the champion: its ancestors in the store."""

from dataclasses import dataclass

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.lineage import ancestor, spec_of
from turbosparse.errors import ArtifactError


@dataclass(frozen=True)
class Branch:
    """The champion and what it was made from."""

    champion: ArtifactSpec
    """The exported model."""
    tuned: ArtifactSpec
    """The model that was exported: tuned, with predictors."""
    pretrained: ArtifactSpec
    """The recovered model that it was tuned from, and that pretraining goes on from."""
    corpus: ArtifactSpec
    """What that was trained on: its groups are used again, its held-back text measures both models."""
    tokenizer: ArtifactSpec
    """What its tokens mean."""
    instructions: ArtifactSpec
    """The conversations that it was tuned on."""
    last_number: int = 0
    """The last promotion of the log when the champion was looked up."""


def branch_from(store: Store, champion: str, last_number: int = 0) -> Branch:
    """Returns a champion's ancestors.

    Args:
        store: where they lie.
        champion: `kind/identity` of the exported model.
        last_number: the last promotion of the log.

    Raises:
        ArtifactError: It is no export of a pipeline, or an ancestor is gone or damaged.
    """
    exported = spec_of(store, champion)
    if exported.kind != "export":
        raise ArtifactError("champion", champion, "an export artifact", "export the model, or run a pipeline")
    tuned = _ancestor(exported, "finetune")
    pretrained = _ancestor(tuned, "pretrain")
    corpus = pretrained.parents["corpus"]
    for spec in (exported, tuned, pretrained, corpus):
        if store.find(spec) is None:
            raise ArtifactError("champion", spec.name, "an artifact of the root", "roll back to another")
    return Branch(
        champion=exported,
        tuned=tuned,
        pretrained=pretrained,
        corpus=corpus,
        tokenizer=_tokenizer(store, corpus),
        instructions=tuned.parents["instructions"],
        last_number=last_number,
    )


def _ancestor(spec: ArtifactSpec, kind: str) -> ArtifactSpec:
    found = ancestor(spec, kind)
    if found is None:
        expected = f"an artifact that was made from a {kind} artifact"
        raise ArtifactError("champion", spec.name, expected, "name what a pipeline exported")
    return found


def _tokenizer(store: Store, corpus: ArtifactSpec) -> ArtifactSpec:
    """Returns the tokenizer of a corpus: a parent of each of its groups of tokens."""
    components = store.load(corpus.name).manifest.components
    group = next(name for name in components if name.startswith("tokens/"))
    return spec_of(store, store.load(group).manifest.parents["tokenizer"])
