"""The whole run: one model per stage, in the order in which data flows."""

from typing import Annotated, Literal, Self

from annotated_types import Gt
from pydantic import model_validator

from turbosparse.config.base import Config
from turbosparse.config.data import DataConfig
from turbosparse.config.evaluation import EvaluateConfig
from turbosparse.config.model import Activation, ModelConfig
from turbosparse.config.retrain import RetrainConfig
from turbosparse.config.train import FinetuneConfig, TrainConfig
from turbosparse.errors import ConfigError


class ConvertConfig(Config):
    """Where the SwiGLU model comes from, and what its activation becomes."""

    source: Literal["folder", "base", "random"] = "folder"
    """`folder`: a Hugging Face folder given by `placement.source`; `base`: a SwiGLU model trained
    here first, as `base` says; `random`: seeded initial weights."""
    activation: Activation = "drelu"
    """The activation after conversion."""
    base: TrainConfig | None = None
    """How the SwiGLU base is trained; needed by, and used for, `source: base` only."""

    @model_validator(mode="after")
    def _has_its_base(self) -> Self:
        if self.source == "base" and self.base is None:
            raise ConfigError(
                "base", None, "how the SwiGLU base is trained", "set base, or source to folder or random"
            )
        return self


class ExportConfig(Config):
    """What is exported, and what it must prove before it is committed."""

    powerinfer: Literal["f16", "q4_0"] | None = None
    """Also write a file for PowerInfer, its matrices in F16 or Q4_0; none: the Hugging Face folder alone."""
    num_check_tokens: Annotated[int, Gt(0)] = 32
    """Tokens decoded greedily before and after export; they must be equal."""
    num_timed_tokens: Annotated[int, Gt(0)] = 32
    """Tokens decoded in each repetition when dense and exact-sparse decoding are timed."""


class PipelineConfig(Config):
    """Identity of a run: what it computes, and nothing about where."""

    data: DataConfig
    """Corpora and their mixture."""
    model: ModelConfig
    """Architecture, unless a source model brings its own."""
    convert: ConvertConfig = ConvertConfig()
    """SwiGLU to dReLU."""
    pretrain: TrainConfig
    """Continued pretraining that recovers the model."""
    finetune: FinetuneConfig
    """Instruction tuning with predictors."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation."""
    export: ExportConfig = ExportConfig()
    """Export."""
    retrain: RetrainConfig = RetrainConfig()
    """What a scheduled retraining does, and what its candidate must hold."""

    @model_validator(mode="after")
    def _fits_the_context(self) -> Self:
        for stage, length in (
            ("data", self.data.sequence_length),
            ("finetune", self.finetune.sequence_length),
        ):
            if length > self.model.context_length:
                raise ConfigError(
                    f"{stage}.sequence_length",
                    length,
                    f"at most model.context_length={self.model.context_length}",
                    "lower it or raise the context length",
                )
        return self

    @model_validator(mode="after")
    def _cuts_evenly(self) -> Self:
        length = self.data.sequence_length
        for stage, recipe in (("convert.base", self.convert.base), ("pretrain", self.pretrain)):
            warmup = recipe.sequence_warmup if recipe is not None else None
            if warmup is not None and length % warmup.length_tokens:
                raise ConfigError(
                    f"{stage}.sequence_warmup.length_tokens",
                    warmup.length_tokens,
                    f"a divisor of data.sequence_length={length}",
                    "change one of the two",
                )
        return self
