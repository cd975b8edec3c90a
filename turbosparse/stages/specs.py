"""The identity of every stage's artifact, known before any stage has run.

A stage's version is raised when its code changes what it makes from the same configuration.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from turbosparse.artifacts import Artifact, ArtifactSpec
from turbosparse.errors import ArtifactError
from turbosparse.stages.run import Run


class Specs:
    """The chain of artifact specifications of one run, each with its parents."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def prepare(self) -> ArtifactSpec:
        """Tokenizer, shards, held-back documents."""
        inputs = {"corpora": self._run.inputs.corpora}
        inputs |= self._optional("tokenizer") | self._optional("evaluation")
        return ArtifactSpec("prepare", 2, self._run.config.data.model_dump(mode="json"), {}, inputs)

    @cached_property
    def base(self) -> ArtifactSpec:
        """The SwiGLU model trained here."""
        config, base = self._run.config, self._run.config.convert.base
        assert base is not None
        tree = {"model": config.model.model_dump(mode="json"), "train": base.model_dump(mode="json")}
        return ArtifactSpec("base", 1, tree, {"corpus": self.prepare})

    @cached_property
    def convert(self) -> ArtifactSpec:
        """The dReLU model before recovery."""
        config = self._run.config
        tree: dict[str, Any] = {
            "source": config.convert.source,
            "activation": config.convert.activation,
        }
        parents = {"corpus": self.prepare}
        if config.convert.source == "base":
            parents["base"] = self.base
        if config.convert.source == "random":
            tree["model"] = config.model.model_dump(mode="json")
        return ArtifactSpec("convert", 1, tree, parents, self._optional("source"))

    @cached_property
    def pretrain(self) -> ArtifactSpec:
        """The recovered model."""
        tree = self._run.config.pretrain.model_dump(mode="json")
        return ArtifactSpec("pretrain", 1, tree, {"model": self.convert, "corpus": self.prepare})

    @cached_property
    def instructions(self) -> ArtifactSpec:
        """Packed conversations."""
        finetune = self._run.config.finetune
        fields = {"sequence_length", "max_conversations", "chat_template", "mixture", "strict"}
        inputs = {"instructions": self._run.instructions.digest()} | self._optional("evaluation")
        tree = finetune.model_dump(mode="json", include=fields)
        return ArtifactSpec("instructions", 2, tree, {"corpus": self.prepare}, inputs)

    @cached_property
    def finetune(self) -> ArtifactSpec:
        """The instruction-tuned model with predictors."""
        tree = self._run.config.finetune.model_dump(mode="json")
        parents = {"model": self.pretrain, "instructions": self.instructions}
        return ArtifactSpec("finetune", 2, tree, parents)

    @cached_property
    def evaluate(self) -> ArtifactSpec:
        """The tuned model's results."""
        tree = self._run.config.evaluate.model_dump(mode="json")
        return ArtifactSpec("evaluate", 1, tree, {"model": self.finetune, "corpus": self.prepare})

    @cached_property
    def export(self) -> ArtifactSpec:
        """The folder for other engines."""
        tree = self._run.config.export.model_dump(mode="json")
        return ArtifactSpec("export", 2, tree, {"model": self.finetune, "evaluation": self.evaluate})

    def _optional(self, name: str) -> dict[str, str]:
        digest = getattr(self._run.inputs, name)
        return {name: digest} if digest is not None else {}


def require_parents(run: Run, stages: Iterable[str]) -> None:
    """Checks that everything is there that the stages do not make themselves.

    Raises:
        ArtifactError: A parent is missing; the message names the command that makes it.
    """
    specs = [getattr(Specs(run), stage) for stage in stages]
    made = {spec.name for spec in specs}
    for parent in (parent for spec in specs for parent in spec.parents.values()):
        if parent.name not in made:
            require(run, parent)


def require(run: Run, spec: ArtifactSpec) -> Artifact:
    """Returns a parent that an earlier stage has made.

    Raises:
        ArtifactError: It has not run; the message names the command that runs it.
    """
    artifact = run.store.find(spec)
    if artifact is not None:
        return artifact
    command = "finetune" if spec.kind == "instructions" else "convert" if spec.kind == "base" else spec.kind
    remedy = f"run turbosparse run {command} --preset {run.preset} --root {run.placement.root} (same options)"
    raise ArtifactError(f"{spec.kind} artifact", spec.name, f"one in {run.store.root}", remedy)
