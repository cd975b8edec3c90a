"""Where a run takes place. Nothing here takes part in an artifact's identity."""

from typing import Annotated, Literal

from annotated_types import Gt, Le
from pydantic import Field

from turbosparse.config.access import AccessConfig
from turbosparse.config.base import Config
from turbosparse.config.hardware import TrainingPlacement
from turbosparse.config.launch import JobSetConfig, SupervisionConfig
from turbosparse.config.uri import Address, Uri


class Placement(Config):
    """Paths, ranks and cadence: the same run elsewhere gives the same identities."""

    root: Uri = "./runs"
    """Artifact root: a folder, or an fsspec URI such as s3://bucket/prefix."""
    access: AccessConfig = AccessConfig()
    """Where object storage answers, and which Prefect blocks hold credentials."""
    cache_gib: Annotated[float, Gt(0)] | None = None
    """Space on this machine for what is fetched from an object store, least recently used first to go;
    none: TURBOSPARSE_CACHE_GIB, else 100."""
    source: Uri | None = None
    """Hugging Face folder of the SwiGLU model to convert (for `convert.source: folder`)."""
    corpora: Uri | None = None
    """Folder or fsspec URI of JSONL (plain, gzip, zstd) or Parquet files (for `data.corpora: folder`)."""
    evaluation_data: Uri | None = None
    """Folder of evaluation sets in the hub's own fields: what the corpora are decontaminated
    against, and where the items of evaluation's tasks come from; none: the hub's items."""
    evaluated_model: Uri | None = None
    """What is evaluated in place of the run's own tuned model (for `run evaluate`): the URI of an artifact of
    this root with a model, of a training that still runs (its newest checkpoint), or a model folder."""
    tokenizer: Uri | None = None
    """Hugging Face tokenizer folder; none: the source model's, else one is trained."""
    instructions: Uri | None = None
    """JSONL file or folder of instruction rows; none: what `finetune.instructions` says."""
    num_ranks: Annotated[int, Gt(0)] = 1
    """Training processes on each node (one per GPU where there are GPUs)."""
    num_nodes: Annotated[int, Gt(0)] = 1
    """Machines that train together."""
    launcher: Literal["local", "jobset"] = "local"
    """What starts the training processes: torchrun on this machine, or a Kubernetes JobSet."""
    rendezvous: Annotated[str, Field(pattern=r"^[^:\s]+:[0-9]+$")] | None = None
    """HOST:PORT of this machine, where other nodes find it (for `launcher: local` with several nodes)."""
    supervision: SupervisionConfig = SupervisionConfig()
    """How long training processes may be silent, and how long they have to end."""
    jobset: JobSetConfig | None = None
    """The cluster's side of `launcher: jobset`."""
    device_batch_size_sequences: Annotated[int, Gt(0)] | None = None
    """Sequences per forward pass of one rank; none: the rank's whole share of the batch."""
    checkpoint_interval_steps: Annotated[int, Gt(0)] | None = None
    """Steps between checkpoints for resuming; none: a twentieth of the run, but 10 to 250 steps."""
    num_workers: Annotated[int, Gt(0)] = 1
    """Groups of documents that are prepared at the same time."""
    workers: Literal["threads", "processes", "dask"] = "processes"
    """What prepares them where there is more than one: threads, processes, or a Dask cluster."""
    dask_scheduler: Address | None = None
    """Address of a running Dask scheduler; none: a cluster on this machine."""
    training: TrainingPlacement = TrainingPlacement()
    """How training uses the hardware, and what is looked at meanwhile."""
    max_gpu_hours: Annotated[float, Gt(0)] | None = None
    """A run whose training stages are planned to take more GPU-hours, all together, does not start;
    none: no limit."""
    gpu_peak_teraflops: Annotated[float, Gt(0)] = 312.0
    """What planned hours take for a GPU's dense bf16 peak, in 10^12 FLOP/s: 312 for A100 and A800, 989
    for H100 and H200."""
    expected_mfu_ratio: Annotated[float, Gt(0), Le(1)] = 0.45
    """Share of that peak which planned hours expect training to reach (MFU)."""

    @property
    def num_ranks_total(self) -> int:
        """Training processes over all nodes."""
        return self.num_nodes * self.num_ranks
