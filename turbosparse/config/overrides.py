"""What people change about a preset, as a form: optional fields, each with its bounds and its help.

A form that was filled with a preset's values could not follow a change of the preset.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict

from turbosparse.config.base import Config
from turbosparse.config.resolve import Tree, merge, read_overrides


class Partial(Config):
    """Part of a configuration. Any other field of that part may be given too, and is checked with it."""

    model_config = ConfigDict(extra="allow")

    def tree(self) -> Tree:
        """Returns what was given: a field of the form that is empty is not, any other field is."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        filled = {name: _plain(value) for name, value in given.items() if value is not None}
        return {name: value for name, value in filled.items() if value != {}} | (self.model_extra or {})


class DataOverrides(Partial):
    """The recovery corpus."""

    corpora: Literal["hub", "local", "folder", "sampled"] | None = None
    """The sources' own data sets, text of the worker's machine, JSONL or Parquet files in
    placement.corpora, or text sampled from placement.source."""
    num_tokens: Annotated[int, Gt(0)] | None = None
    """Tokens of one epoch, all sources together."""
    sequence_length: Annotated[int, Ge(16), Le(32_768)] | None = None
    """Tokens per training sequence."""
    on_shortage: Literal["refuse", "shrink"] | None = None
    """What happens where a source is too small for its share of the mixture."""


class TrainOverrides(Partial):
    """A training run's hyperparameters."""

    num_steps: Annotated[int, Gt(0)] | None = None
    """Optimizer steps."""
    batch_size_sequences: Annotated[int, Gt(0)] | None = None
    """Sequences per optimizer step, over all ranks."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """Peak learning rate, reached at the end of warmup."""
    warmup_steps: Annotated[int, Ge(0)] | None = None
    """Steps of linear warmup; fewer than num_steps."""
    seed: Annotated[int, Ge(0)] | None = None
    """Seeds everything random in training."""


class FinetuneOverrides(TrainOverrides):
    """Instruction tuning with predictors."""

    sequence_length: Annotated[int, Ge(16), Le(32_768)] | None = None
    """Tokens per packed sequence of conversations."""
    max_conversations: Annotated[int, Gt(0)] | None = None
    """Conversations to take at the most."""


class EvaluateOverrides(Partial):
    """What the tuned model is measured on."""

    tasks: tuple[str, ...] | None = None
    """lm-evaluation-harness tasks, such as arc_easy."""
    limit: Annotated[int, Gt(0)] | None = None
    """Items per task at the most."""


class ExportOverrides(Partial):
    """What is exported."""

    powerinfer: Literal["f16", "q4_0"] | None = None
    """Also write a file for PowerInfer, its matrices in F16 or Q4_0."""


class Overrides(Partial):
    """What differs from the preset; an empty field follows it."""

    data: DataOverrides = DataOverrides()
    """The recovery corpus."""
    pretrain: TrainOverrides = TrainOverrides()
    """Continued pretraining."""
    finetune: FinetuneOverrides = FinetuneOverrides()
    """Instruction tuning with predictors."""
    evaluate: EvaluateOverrides = EvaluateOverrides()
    """Evaluation."""
    export: ExportOverrides = ExportOverrides()
    """Export."""
    assignments: tuple[str, ...] = ()
    """Any other field, as with --set on the command line: pretrain.weight_decay=0.1."""

    def tree(self) -> Tree:
        """Returns the overrides as `resolve` takes them, assignments on top.

        Raises:
            ConfigError: An assignment that is not of the form a.b=c.
        """
        tree = super().tree()
        del tree["assignments"]
        return merge(tree, read_overrides(None, list(self.assignments)))


def _plain(value: Any) -> Any:
    return value.tree() if isinstance(value, Partial) else list(value) if isinstance(value, tuple) else value
