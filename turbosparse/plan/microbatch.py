"""The microbatch: as many sequences at once as fit, layers computed twice only where they must be."""

from dataclasses import replace

from turbosparse.config import PredictorConfig
from turbosparse.model.layout import OurConfig
from turbosparse.plan.memory import PassMemory, RankMemory, measure_pass, rank_memory
from turbosparse.plan.trace import StepShape


def largest_microbatch(
    config: OurConfig,
    step: StepShape,
    rank_batch_sequences: int,
    limit_bytes: float,
    predictor: PredictorConfig | None,
) -> tuple[StepShape, RankMemory] | None:
    """Returns the largest microbatch that fits, with the rank's memory then; None: not even one does.

    Traces one sequence and two; memory grows evenly with sequences, but for what FSDP2 gathers, which
    hides behind larger logits: it is taken as of one sequence, which is the most.

    Args:
        config: The model's.
        step: Its `microbatch_sequences` is what is looked for.
        rank_batch_sequences: Sequences per optimizer step of one rank: the microbatch divides it.
        limit_bytes: What a rank may use.
        predictor: Where predictors train.
    """
    one = measure_pass(config, replace(step, microbatch_sequences=1), predictor)
    two = measure_pass(config, replace(step.unsharded(), microbatch_sequences=2), predictor)
    for sequences in range(rank_batch_sequences, 0, -1):
        if rank_batch_sequences % sequences:
            continue
        traced, num_microbatches = _extend(one, two, sequences), rank_batch_sequences // sequences
        memory = rank_memory(config, traced, step.num_ranks, num_microbatches)
        if memory.total <= limit_bytes:
            return replace(step, microbatch_sequences=sequences), memory
    return None


def _extend(one: PassMemory, two: PassMemory, sequences: int) -> PassMemory:
    def extend(name: str) -> int:
        first, second = getattr(one, name), getattr(two, name)
        return int(first + (sequences - 1) * (second - first))

    return PassMemory(
        layer=extend("layer"),
        outside=extend("outside"),
        working=extend("working"),
        gathered=one.gathered,
        predictor_layer=extend("predictor_layer"),
    )
