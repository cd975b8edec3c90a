"""What people change about a preset, as a form: optional fields, each with its bounds and its help.

A form that was filled with a preset's values could not follow a change of the preset.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer
from pydantic.json_schema import SkipJsonSchema

from turbosparse.config.base import Config, title_fields
from turbosparse.config.resolve import Tree, merge, read_overrides

Empty = SkipJsonSchema[None]
"""A form's field that was left empty. Forms need not know of it: a choice between a number and nothing
would be drawn as two tabs."""


def _without_empty_defaults(schema: dict[str, Any]) -> None:
    title_fields(schema)
    for field in schema["properties"].values():
        if field.get("default", "") is None:
            del field["default"]


class Partial(Config):
    """Part of a configuration. Any other field of that part may be given too, and is checked with it."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_without_empty_defaults)

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out the form's empty fields; any other field was given, even as null."""
        others = self.model_extra or {}
        fields = serialize(self).items()
        return {name: value for name, value in fields if name in others or value not in (None, {}, [], ())}


class DataOverrides(Partial):
    """The recovery corpus."""

    corpora: Literal["hub", "local", "folder", "sampled"] | Empty = None
    """The sources' own data sets, text of the worker's machine, JSONL or Parquet files in
    placement.corpora, or text sampled from placement.source."""
    num_tokens: Annotated[int, Gt(0)] | Empty = None
    """Tokens of one epoch, all sources together."""
    sequence_length: Annotated[int, Ge(16), Le(32_768)] | Empty = None
    """Tokens per training sequence."""
    on_shortage: Literal["refuse", "shrink"] | Empty = None
    """What happens where a source is too small for its share of the mixture."""


class TrainOverrides(Partial):
    """A training run's hyperparameters."""

    num_steps: Annotated[int, Gt(0)] | Empty = None
    """Optimizer steps."""
    batch_size_sequences: Annotated[int, Gt(0)] | Empty = None
    """Sequences per optimizer step, over all ranks."""
    learning_rate: Annotated[float, Gt(0)] | Empty = None
    """Peak learning rate, reached at the end of warmup."""
    warmup_steps: Annotated[int, Ge(0)] | Empty = None
    """Steps of linear warmup; fewer than num_steps."""
    seed: Annotated[int, Ge(0)] | Empty = None
    """Seeds everything random in training."""


class FinetuneOverrides(TrainOverrides):
    """Instruction tuning with predictors."""

    sequence_length: Annotated[int, Ge(16), Le(32_768)] | Empty = None
    """Tokens per packed sequence of conversations."""
    max_conversations: Annotated[int, Gt(0)] | Empty = None
    """Conversations to take at the most."""


class EvaluateOverrides(Partial):
    """What the tuned model is measured on."""

    tasks: tuple[str, ...] | Empty = None
    """lm-evaluation-harness tasks, such as arc_easy."""
    limit: Annotated[int, Gt(0)] | Empty = None
    """Items per task at the most."""


class ExportOverrides(Partial):
    """What is exported."""

    powerinfer: Literal["f16", "q4_0"] | Empty = None
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
        """Returns what was given as `resolve` takes it, assignments on top.

        Raises:
            ConfigError: An assignment that is not of the form a.b=c.
        """
        tree = self.model_dump(mode="json")
        return merge(tree, read_overrides(None, tree.pop("assignments", [])))
