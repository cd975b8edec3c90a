"""Refuses a run that is planned to take more GPU-hours than it may."""

import json
from pathlib import Path
from typing import Any

from turbosparse.config import PipelineConfig, Placement
from turbosparse.errors import ConfigError
from turbosparse.plan.schedule import StageRecipe, as_decoder, predictor_rank, schedule, training_stages


def check_budget(config: PipelineConfig, placement: Placement) -> None:
    """Does nothing unless `max_gpu_hours` is set; stages that have run already count too.

    Raises:
        ConfigError: The training stages take more GPU-hours than that, all together.
    """
    if placement.max_gpu_hours is None:
        return
    hours = {stage.name: _gpu_hours(config, placement, stage) for stage in training_stages(config)}
    total = sum(hours.values())
    if total > placement.max_gpu_hours:
        by_stage = ", ".join(f"{name} {hours[name]:,.4g}" for name in hours)
        peak, mfu = f"{placement.gpu_peak_teraflops:g} TFLOP/s", f"{placement.expected_mfu_ratio:.0%}"
        raise ConfigError(
            "placement.max_gpu_hours",
            placement.max_gpu_hours,
            f"at least the planned {total:,.4g} GPU-hours ({by_stage}; at {mfu} of {peak})",
            "raise it, or lower num_steps or batch_size_sequences",
        )


def _gpu_hours(config: PipelineConfig, placement: Placement, stage: StageRecipe) -> float:
    fields, rank = _decoder_fields(config, placement), None
    if stage.trains_predictors:
        rank = predictor_rank(config.finetune, fields["hidden_size"], fields["intermediate_size"])
    return schedule(stage, as_decoder(fields, rank), placement).gpu_hours


def _decoder_fields(config: PipelineConfig, placement: Placement) -> dict[str, Any]:
    if placement.source is None:
        return config.model.decoder_fields(config.data.vocab_size)
    # A folder that was checked before: open_run does so first.
    fields: dict[str, Any] = json.loads((Path(placement.source) / "config.json").read_text(encoding="utf-8"))
    return fields
