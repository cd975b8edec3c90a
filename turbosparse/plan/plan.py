"""A whole plan: the training stages of a run, each with its model, memory, hours and storage."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from turbosparse.config import PipelineConfig, Placement, PredictorConfig
from turbosparse.model.layout import OurConfig
from turbosparse.model.shards import find_tensors
from turbosparse.plan.memory import RankMemory, measure_pass, rank_memory
from turbosparse.plan.microbatch import largest_microbatch
from turbosparse.plan.parameters import Parameters, count_parameters, model_on_meta, planned_model
from turbosparse.plan.schedule import Schedule, StageRecipe, schedule, training_stages
from turbosparse.plan.storage import Reliability, StoragePlan, plan_storage
from turbosparse.plan.trace import Precision, StepShape
from turbosparse.train.sharding import largest_shard_size


@dataclass(frozen=True)
class Hardware:
    """The machines, as far as `Placement` does not describe them."""

    precision: Precision = "bf16"
    """`bf16`: mixed precision, as on GPUs; `fp32`: as on CPUs."""
    memory_bytes: float = 80 * 2**30
    """Of one GPU."""
    reserve_bytes: float = 6 * 2**30
    """Of it, what is no tensor: the GPU's context, NCCL's buffers, the allocator's gaps."""
    reliability: Reliability = field(default_factory=Reliability)


@dataclass(frozen=True)
class StagePlan:
    """What one training stage takes."""

    name: str
    parameters: Parameters
    largest_share_ratio: float
    """Parameters of the fullest rank over an even share."""
    memory: RankMemory | None
    step: StepShape | None
    num_microbatches: int | None
    why: str | None
    """Why there is no memory plan."""
    schedule: Schedule
    storage: StoragePlan

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as plain values, with totals."""
        tree = asdict(self)
        tree["parameters"]["total"] = self.parameters.total
        if self.memory is not None:
            tree["memory"]["total"] = self.memory.total
        return tree


def plan_stages(config: PipelineConfig, placement: Placement, hardware: Hardware) -> list[StagePlan]:
    """Plans every training stage of a run, having allocated none of it.

    Raises:
        ModelError: The source is not a folder of a known architecture.
    """
    return [_plan_stage(config, placement, hardware, stage) for stage in training_stages(config)]


def _plan_stage(
    config: PipelineConfig, placement: Placement, hardware: Hardware, stage: StageRecipe
) -> StagePlan:
    model = planned_model(config, placement.source, stage.trains_predictors)
    weights = model_on_meta(model)
    parameters = count_parameters(weights)
    predictor = config.finetune.predictor if stage.trains_predictors else None
    step, memory, why = _fit(model, placement, hardware, stage, predictor)
    num_ranks = placement.num_ranks_total
    held = sum(largest_shard_size(weight.shape, num_ranks) for weight in weights.parameters())
    time = schedule(stage, model, placement)
    num_microbatches = None
    if step is not None:
        num_microbatches = stage.recipe.batch_size_sequences // num_ranks // step.microbatch_sequences
    return StagePlan(
        stage.name,
        parameters,
        held * num_ranks / parameters.total,
        memory,
        step,
        num_microbatches,
        why,
        time,
        plan_storage(
            parameters.total,
            _model_read_bytes(stage, parameters, placement),
            2 if model.vocab_size <= 2**16 else 4,
            time,
            placement.num_nodes,
            hardware.reliability,
            placement.training.keep_checkpoints,
        ),
    )


def _fit(
    model: OurConfig,
    placement: Placement,
    hardware: Hardware,
    stage: StageRecipe,
    predictor: PredictorConfig | None,
) -> tuple[StepShape | None, RankMemory | None, str | None]:
    """Returns the microbatch to train with and its memory, or why there is none."""
    batch, num_ranks = stage.recipe.batch_size_sequences, placement.num_ranks_total
    if batch % num_ranks:
        return None, None, f"a batch of {batch} sequences can't be divided among {num_ranks} ranks"
    rank_batch, limit_bytes = batch // num_ranks, hardware.memory_bytes - hardware.reserve_bytes
    asked = placement.training.activation_checkpointing
    step = StepShape(stage.sequence_length, 1, num_ranks, hardware.precision, asked)
    if (wanted := placement.device_batch_size_sequences) is not None:
        if rank_batch % wanted:
            return None, None, f"{wanted} sequences at once do not divide a rank's {rank_batch}"
        step = replace(step, microbatch_sequences=wanted)
        traced = measure_pass(model, step, predictor)
        return step, rank_memory(model, traced, num_ranks, rank_batch // wanted), None
    for checkpointing in (True,) if asked else (False, True):
        tried = replace(step, activation_checkpointing=checkpointing)
        fitting = largest_microbatch(model, tried, rank_batch, limit_bytes, predictor)
        if fitting is not None:
            return *fitting, None
    return None, None, f"not even one sequence fits into {limit_bytes / 2**30:.0f} GiB: add GPUs"


def _model_read_bytes(stage: StageRecipe, parameters: Parameters, placement: Placement) -> int:
    if stage.name == "pretrain" and placement.source is not None:
        return sum(tensor.num_bytes for tensor in find_tensors(Path(placement.source)).values())
    # Models that training wrote are fp32, predictors begin here.
    return 4 * (parameters.total - parameters.predictor)
