"""Checkpoints and what they cost: bytes, how often, and what passes through the storage."""

import math
from dataclasses import dataclass

from turbosparse.plan.schedule import Schedule

CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Weight and two moments, fp32."""
MODEL_BYTES_PER_PARAMETER = 4
"""The finished model is written as it was trained, in fp32."""


@dataclass(frozen=True)
class Reliability:
    """What the interval between checkpoints is chosen from."""

    storage_bytes_per_second: float = 2e9
    """What all ranks together write to the artifact root."""
    node_failure_hours: float = 6_000.0
    """Mean time between failures of one node: 419 unexpected interruptions in 54 days on 16,384 GPUs.

    Reference: The Llama 3 Herd of Models (arXiv 2407.21783), Section 3.3.4.
    """


@dataclass(frozen=True)
class StoragePlan:
    """A stage's checkpoints and traffic."""

    checkpoint_bytes: int
    checkpoint_seconds: float
    """Training waits that long at each."""
    checkpoint_interval_steps: int
    num_checkpoints: int
    lost_ratio: float
    """Expected share of the time that goes into checkpoints and into work done again after failures."""
    expected_failures: float
    tokens_read_bytes: int
    """Shards of the corpus, each token once, by all ranks together."""
    model_read_bytes: int
    """The starting model as it is stored: each rank reads its part."""
    checkpoints_written_bytes: int
    checkpoints_kept_bytes: int
    model_written_bytes: int


def plan_storage(
    num_parameters: int,
    model_read_bytes: int,
    token_bytes: int,
    time: Schedule,
    num_nodes: int,
    reliability: Reliability,
    keep_checkpoints: int,
) -> StoragePlan:
    """Chooses the interval and adds up the traffic.

    With d the seconds that a checkpoint takes and M those between failures, an interval of t loses
    d / t to writing and t / 2M to work done again; the sum is least at t = sqrt(2 d M).

    Reference: Young, A first order approximation to the optimum checkpoint interval (1974).
    """
    checkpoint_bytes = CHECKPOINT_BYTES_PER_PARAMETER * num_parameters
    seconds = checkpoint_bytes / reliability.storage_bytes_per_second
    failure_seconds = reliability.node_failure_hours * 3_600 / num_nodes
    best = math.sqrt(2 * seconds * failure_seconds)
    interval = min(max(1, round(best / time.seconds_per_step)), time.num_steps)
    interval_seconds = interval * time.seconds_per_step
    num_checkpoints = math.ceil(time.num_steps / interval)
    return StoragePlan(
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_seconds=seconds,
        checkpoint_interval_steps=interval,
        num_checkpoints=num_checkpoints,
        lost_ratio=seconds / interval_seconds + interval_seconds / (2 * failure_seconds),
        expected_failures=time.hours * 3_600 / failure_seconds,
        tokens_read_bytes=time.num_tokens * token_bytes,
        model_read_bytes=model_read_bytes,
        checkpoints_written_bytes=num_checkpoints * checkpoint_bytes,
        checkpoints_kept_bytes=min(keep_checkpoints, num_checkpoints) * checkpoint_bytes,
        model_written_bytes=MODEL_BYTES_PER_PARAMETER * num_parameters,
    )
