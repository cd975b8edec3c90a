"""Memory of one rank by part, and the microbatch that fits."""

from dataclasses import asdict, dataclass, replace

from turbosparse.config import PredictorConfig
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import OurConfig
from turbosparse.plan.parameters import model_on_meta
from turbosparse.plan.trace import StepShape, trace_step
from turbosparse.train.sharding import largest_shard_size

STEADY_LAYERS = 4
"""From this depth on another layer adds what the last one added, FSDP2's prefetching included."""
SHORT_TOKENS = 256
"""Tokens of the pass in which predictors are traced: their loss goes through its elements in chunks."""
DENSE_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
WEIGHT_BYTES = 4
"""Weights, gradients and each of AdamW's two moments: fp32, whatever layers compute in."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes that the rank with the largest part holds at its peak."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the layers keep for the backward pass."""
    logits: int
    """What output projection and loss work on."""
    working: int
    """What a layer's backward pass needs beyond that."""
    gathered: int
    """Layers that FSDP2 has gathered, their unsharded gradients, and what is being reduced."""
    reused: int
    """Gradients of a step's only microbatch take the place of activations: to be subtracted."""
    predictor: int = 0
    """What predictors keep for their own loss."""

    @property
    def total(self) -> int:
        """The peak."""
        return sum(asdict(self).values()) - 2 * self.reused


@dataclass(frozen=True)
class PassMemory:
    """Bytes of a forward and backward pass, whatever is kept between steps apart."""

    layer: int
    outside: int
    working: int
    gathered: int
    predictor_layer: int = 0


def measure_pass(config: OurConfig, step: StepShape, predictor: PredictorConfig | None = None) -> PassMemory:
    """Traces a pass through a few layers of true width; every further layer adds `layer`."""
    unsharded = step.unsharded()
    outside, two, three = (trace_step(config, unsharded, num_layers) for num_layers in (0, 2, 3))
    layer = three - two
    working = max(0, two - 2 * layer - outside)
    gathered = 0
    if step.num_ranks > 1:
        num_layers = min(STEADY_LAYERS, config.num_hidden_layers)
        gathered = trace_step(config, step, num_layers) - (outside + working + num_layers * layer)
    if predictor is None:
        return PassMemory(layer, outside, working, gathered)
    return PassMemory(layer, outside, working, gathered, _predictor_layer(config, unsharded, predictor))


def _predictor_layer(config: OurConfig, step: StepShape, predictor: PredictorConfig) -> int:
    """Returns what a layer's predictors keep for their loss, which grows with tokens and nothing else.

    How many tokens each expert gets is not known beforehand, but how many all of them get is: experts
    are traced as one FFN that reads a token as often as it is routed.
    """
    num_tokens = step.microbatch_sequences * step.sequence_length
    if isinstance(config, TurboSparseMixtralConfig):
        num_tokens *= config.num_experts_per_tok
    dense = TurboSparseMistralConfig(
        **{name: getattr(config, name) for name in DENSE_FIELDS}, predictor_rank=config.rank_of(0)
    )
    short = replace(step, microbatch_sequences=1, sequence_length=SHORT_TOKENS)
    trained, plain = (
        trace_step(dense, short, 3, one) - trace_step(dense, short, 2, one) for one in (predictor, None)
    )
    return (trained - plain) * num_tokens // SHORT_TOKENS


def rank_memory(config: OurConfig, traced: PassMemory, num_ranks: int, num_microbatches: int) -> RankMemory:
    """Adds up what a rank holds between steps and what a pass needs.

    Args:
        config: The model's.
        traced: From `measure_pass`.
        num_ranks: Ranks that share weights, gradients and moments.
        num_microbatches: Forward passes per optimizer step of one rank.
    """
    sizes = [parameter.shape for parameter in model_on_meta(config).parameters()]
    shard_bytes = WEIGHT_BYTES * sum(largest_shard_size(size, num_ranks) for size in sizes)
    activations = traced.layer * config.num_hidden_layers
    reused = 0
    if num_microbatches == 1:
        # By the time that the last gradients are made, one layer's activations are left.
        freed = activations - traced.layer + traced.outside
        reused = min(shard_bytes, freed)
    return RankMemory(
        weights=shard_bytes,
        gradients=shard_bytes,
        optimizer=2 * shard_bytes,
        activations=activations,
        logits=traced.outside,
        working=traced.working,
        gathered=traced.gathered,
        reused=reused,
        predictor=traced.predictor_layer * config.num_hidden_layers,
    )
