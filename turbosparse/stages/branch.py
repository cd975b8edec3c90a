"""What a retraining takes over from the champion: its ancestors in the store."""

from dataclasses import dataclass

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.lineage import ancestor, spec_of
from turbosparse.errors import ArtifactError
from turbosparse.promotion import Promotion


@dataclass(frozen=True)
class Branch:
    """The champion and what it was made from."""

    promotion: Promotion
    """Says which artifact is the champion."""
    last_number: int
    """The last promotion of the log when the champion was looked up."""
    tuned: ArtifactSpec
    """The champion: tuned, with predictors."""
    pretrained: ArtifactSpec
    """The recovered model that it was tuned from, and that pretraining goes on from."""
    corpus: ArtifactSpec
    """What that was trained on: its groups are used again, its held-back text measures both models."""
    tokenizer: ArtifactSpec
    """What its tokens mean."""
    instructions: ArtifactSpec
    """The conversations that it was tuned on."""


def branch_from(store: Store, promotion: Promotion, last_number: int) -> Branch:
    """Returns the champion's ancestors.

    Raises:
        ArtifactError: One of them is gone or damaged.
    """
    champion = spec_of(store, promotion.champion)
    tuned = _ancestor(champion, "finetune")
    pretrained = _ancestor(tuned, "pretrain")
    corpus = pretrained.parents["corpus"]
    for spec in (champion, tuned, pretrained, corpus):
        if store.find(spec) is None:
            raise ArtifactError("champion", spec.name, "an artifact of the root", "roll back to another")
    return Branch(
        promotion=promotion,
        last_number=last_number,
        tuned=tuned,
        pretrained=pretrained,
        corpus=corpus,
        tokenizer=_tokenizer(store, corpus),
        instructions=tuned.parents["instructions"],
    )


def _ancestor(spec: ArtifactSpec, kind: str) -> ArtifactSpec:
    found = ancestor(spec, kind)
    if found is None:
        expected = f"an artifact that was made from a {kind} artifact"
        remedy = "promote what a pipeline exported: turbosparse champion promote URI"
        raise ArtifactError("champion", spec.name, expected, remedy)
    return found


def _tokenizer(store: Store, corpus: ArtifactSpec) -> ArtifactSpec:
    """Returns the tokenizer of a corpus: the parent of each of its groups of tokens."""
    components = store.load(corpus.name).manifest.components
    group = next(name for name in components if name.startswith("tokens/"))
    return spec_of(store, store.load(group).manifest.parents["tokenizer"])
