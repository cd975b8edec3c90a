"""The identity of every stage's artifact, known before any stage has run.

A stage's version is raised when its code changes what it makes from the same configuration.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

from turbosparse.artifacts import Artifact, ArtifactSpec
from turbosparse.artifacts.lineage import ancestor
from turbosparse.errors import ArtifactError
from turbosparse.stages.run import Run


class Specs:
    """The chain of artifact specifications of one run, each with its parents."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def prepare(self) -> ArtifactSpec:
        """Tokenizer, shards, held-back documents."""
        tree, branch = self._run.config.data.model_dump(mode="json"), self._run.branch
        inputs = {"corpora": self._run.inputs.corpora} | self._optional("evaluation")
        if branch is None:
            return ArtifactSpec("prepare", 3, tree, {}, inputs | self._optional("tokenizer"))
        return ArtifactSpec("prepare", 3, tree, {"known": branch.corpus}, inputs)

    @cached_property
    def base(self) -> ArtifactSpec:
        """The SwiGLU model trained here; the champion's, where the run branches from one."""
        if self._run.branch is not None:
            return self._inherited("base")
        config, base = self._run.config, self._run.config.convert.base
        assert base is not None
        tree = {"model": config.model.model_dump(mode="json"), "train": base.model_dump(mode="json")}
        return ArtifactSpec("base", 1, tree, {"corpus": self.prepare})

    @cached_property
    def convert(self) -> ArtifactSpec:
        """The dReLU model before recovery; the champion's, where the run branches from one."""
        if self._run.branch is not None:
            return self._inherited("convert")
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
        """The recovered model; it goes on from the champion's, where the run branches from one."""
        tree, branch = self._run.config.pretrain.model_dump(mode="json"), self._run.branch
        start = self.convert if branch is None else branch.pretrained
        return ArtifactSpec("pretrain", 1, tree, {"model": start, "corpus": self.prepare})

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
        """The instruction-tuned model with predictors; the one to be measured, where the run names it."""
        if self._run.tuned is not None:
            return self._run.tuned
        tree = self._run.config.finetune.model_dump(mode="json")
        parents = {"model": self.pretrain, "instructions": self.instructions}
        return ArtifactSpec("finetune", 2, tree, parents)

    @cached_property
    def evaluate(self) -> ArtifactSpec:
        """The tuned model's results; on the champion's held-back text, where the run branches from one."""
        tree = self._run.config.evaluate.model_dump(mode="json")
        if self._run.inputs.evaluated_model is not None:
            given = {"model": self._run.inputs.evaluated_model}
            return ArtifactSpec("evaluate", 2, tree, {"corpus": self._yardstick}, given)
        return ArtifactSpec("evaluate", 2, tree, {"model": self.finetune, "corpus": self._yardstick})

    @cached_property
    def export(self) -> ArtifactSpec:
        """The folder for other engines."""
        tree = self._run.config.export.model_dump(mode="json")
        return ArtifactSpec("export", 2, tree, {"model": self.finetune, "evaluation": self.evaluate})

    @cached_property
    def verdict(self) -> ArtifactSpec:
        """Whether the tuned model may be the champion."""
        run = self._run
        parents = {"candidate": self.evaluate}
        if run.branch is not None:
            parents["champion"] = Specs(replace(run, tuned=run.branch.tuned)).evaluate
        return ArtifactSpec("verdict", 1, run.config.retrain.gate.model_dump(mode="json"), parents)

    @property
    def _yardstick(self) -> ArtifactSpec:
        # Text that came after the champion must not be what the candidate that learned it is measured by.
        if self._run.branch is not None:
            return self._run.branch.corpus
        own = ancestor(self._run.tuned, "prepare") if self._run.tuned is not None else None
        return own or self.prepare

    def _inherited(self, kind: str) -> ArtifactSpec:
        assert self._run.branch is not None
        found = ancestor(self._run.branch.pretrained, kind)
        assert found is not None, f"the champion was made without {kind}"
        return found

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
    commands = {"instructions": "finetune", "base": "convert", "verdict": "retrain"}
    command = commands.get(spec.kind, spec.kind)
    remedy = f"run turbosparse run {command} --preset {run.preset} --root {run.placement.root} (same options)"
    raise ArtifactError(f"{spec.kind} artifact", spec.name, f"one in {run.store.root}", remedy)
