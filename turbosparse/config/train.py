"""Hyperparameters of one training run (Tables 5 and 12 of the paper)."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from turbosparse.config.base import Config
from turbosparse.config.levers import (
    ActivationScheduleConfig,
    DistillationConfig,
    SequenceWarmupConfig,
    SparsityPenaltyConfig,
)
from turbosparse.config.predictors import PredictorConfig
from turbosparse.errors import ConfigError


class TrainConfig(Config):
    """AdamW with linear warmup and cosine decay over a fixed number of steps."""

    num_steps: Annotated[int, Gt(0)]
    """Optimizer steps."""
    batch_size_sequences: Annotated[int, Gt(0)]
    """Global batch: sequences per optimizer step, over all ranks."""
    learning_rate: Annotated[float, Gt(0)]
    """Peak learning rate, reached at the end of warmup."""
    final_learning_rate_ratio: Annotated[float, Ge(0), Le(1)] = 0.1
    """Learning rate at the last step, as a share of the peak."""
    warmup_steps: Annotated[int, Ge(0)]
    """Steps of linear warmup."""
    adam_beta1: Annotated[float, Gt(0), Le(1)] = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: Annotated[float, Gt(0), Le(1)] = 0.95
    """AdamW's second-moment decay."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """AdamW's decoupled weight decay."""
    gradient_clip_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are scaled down to this norm where they exceed it."""
    attend_within_documents: bool = False
    """Whether a token sees only its own document's tokens in a packed sequence; the paper packs as
    Mistral was trained, without such a mask."""
    router_aux_loss_ratio: Annotated[float, Ge(0)] = 0.02
    """Weight of Mixtral's load-balancing loss."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What happens to a step whose loss or gradient is not finite, or whose loss is a spike: training
    stops and says so, or the step's update is left out and counted."""
    spike_loss_ratio: Annotated[float, Gt(1)] | None = None
    """A loss above this many times the median of the last 128 steps is a spike; none: no loss is."""
    max_skipped_steps: Annotated[int, Gt(0)] = 16
    """Training stops where more steps than this are skipped one after the other."""
    distillation: DistillationConfig | None = None
    """Learns from the original SwiGLU model's predictions; none: from the text alone, as in the paper."""
    sparsity_penalty: SparsityPenaltyConfig | None = None
    """Presses FFN activations towards zero; none: dReLU's own zeros, as in the paper."""
    activation_schedule: ActivationScheduleConfig | None = None
    """Goes from SwiGLU to the model's activation gradually; none: at once, as in the paper."""
    sequence_warmup: SequenceWarmupConfig | None = None
    """Trains on shorter sequences at first; none: on whole ones throughout, as in the paper."""
    seed: Annotated[int, Ge(0)] = 17
    """Seeds everything random in training."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_steps >= self.num_steps:
            raise ConfigError(
                "warmup_steps",
                self.warmup_steps,
                f"less than num_steps={self.num_steps}",
                "lower warmup_steps or raise num_steps",
            )
        return self


class FinetuneConfig(TrainConfig):
    """Instruction tuning (SFT) with predictors trained beside it (Section 7 of the paper)."""

    instructions: Literal["hub", "local", "folder"] = "hub"
    """`hub`: the paper's data sets, orca-math-word-problems-200k and bagel-v0.5 (CC-BY-NC-4.0: no
    commercial use); `local`: documentation found on this machine, a stand-in; `folder`: the file or
    folder given by `placement.instructions`, which sets this."""
    predictor: PredictorConfig
    """One predictor per FFN, per expert in Mixtral."""
    sequence_length: Annotated[int, Ge(16), Le(32_768)]
    """Tokens per packed sequence of conversations."""
    max_conversations: Annotated[int, Gt(0)] = 1_000_000
    """Conversations to take at the most, in their shuffled order."""
    chat_template: Literal["chatml", "llama-2", "mistral", "zephyr"] = "chatml"
    """How conversations are written; the released models speak ChatML."""
    mixture: dict[str, Annotated[float, Gt(0), Le(100)]] | None = None
    """Percent of the tokens by set of instructions (a folder's sets are its files, by name); must sum to
    100. None: every set as large as it is. Evaluation items are kept out as `data.decontaminate` says."""
    strict: bool = False
    """Stops at the first row that is no conversation; otherwise such rows are counted and reported."""

    @model_validator(mode="after")
    def _keeps_conversations_whole(self) -> Self:
        if self.sequence_warmup is not None:
            raise ConfigError(
                "sequence_warmup.length_tokens",
                self.sequence_warmup.length_tokens,
                "no sequence_warmup",
                "leave it out: conversations are not cut",
            )
        return self

    @model_validator(mode="after")
    def _has_a_whole_mixture(self) -> Self:
        total = sum(self.mixture.values()) if self.mixture is not None else 100.0
        if abs(total - 100.0) > 1e-6:
            remedy = "change one of the sets' percentages so that they do"
            raise ConfigError("mixture", f"a sum of {total:g}", "percentages that sum to 100", remedy)
        return self
