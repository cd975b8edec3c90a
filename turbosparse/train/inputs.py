"""What a job reads, on this node's disk: fetched once per node where it lies elsewhere."""

import torch.distributed as torch_dist
from composer.utils import dist

from turbosparse.artifacts import fetch_origin
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat

FOLDERS = ("model_folder", "data_folder", "validation_folder", "teacher_folder", "held_back_folder")


def with_local_inputs(job: TrainJob) -> TrainJob:
    """Returns the job with paths instead of origins; every rank calls this.

    Raises:
        ArtifactError: An artifact is gone or corrupt.
    """
    origins = {getattr(job, name) for name in FOLDERS} - {None}
    if not any("://" in origin for origin in origins):
        return job
    beat("fetching what training reads", is_slow=True)
    is_first = dist.get_local_rank() == 0
    fetched = {origin: str(fetch_origin(origin)) for origin in sorted(origins)} if is_first else {}
    local = _first_of_this_node(fetched)
    return job.model_copy(update={name: local.get(getattr(job, name)) for name in FOLDERS})


def _first_of_this_node(fetched: dict[str, str]) -> dict[str, str]:
    """Returns what this node's first rank has fetched."""
    if dist.get_world_size() == 1:
        return fetched
    by_rank: list[tuple[int, dict[str, str]]] = [(0, {})] * dist.get_world_size()
    torch_dist.all_gather_object(by_rank, (dist.get_node_rank(), fetched))
    return next(found for node, found in by_rank if node == dist.get_node_rank() and found)
