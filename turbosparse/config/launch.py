"""How training processes are started, watched and ended. Nothing here takes part in an identity."""

from typing import Annotated, Literal

from annotated_types import Gt, Le
from pydantic import Field, field_validator

from turbosparse.config.base import Config
from turbosparse.config.uri import Address
from turbosparse.masking import holds_secret, names_secret

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
"""A Kubernetes object's name."""
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
"""A Kubernetes resource quantity, such as 64Gi."""


class SupervisionConfig(Config):
    """How long a training process may be silent, and how long it has to end."""

    startup_timeout_seconds: Annotated[float, Gt(0)] = 3600.0
    """Silence allowed before the first step, and in slow phases such as writing a checkpoint: imports,
    downloads, compilation."""
    hang_timeout_seconds: Annotated[float, Gt(0)] = 900.0
    """Silence allowed between two steps; a rank that is silent for longer ends the run."""
    preemption_grace_seconds: Annotated[float, Gt(0), Le(3600)] = 20.0
    """Time from being told to stop to being killed: a step and a checkpoint must fit. Prefect's worker
    kills a cancelled flow run after 30 seconds."""


class TolerationConfig(Config):
    """A node taint that training pods tolerate."""

    key: str
    """The taint's key."""
    value: str | None = None
    """The taint's value; none: any."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """The taint's effect."""


class JobSetConfig(Config):
    """Training as a Kubernetes JobSet: one pod per node, torchrun in each.

    The pods' image has turbosparse installed. The pod that runs the flow says which it is in POD_NAME
    (the downward API's metadata.name): the training then belongs to that pod's Job and ends with it,
    while an evicted pod's successor finds it still running.
    """

    namespace: Name
    """Where the JobSet is made."""
    api_url: Address | None = None
    """Kubernetes API, such as http://127.0.0.1:8001 of `kubectl proxy`; none: the cluster this runs in,
    as the pod's service account."""
    image: Annotated[str, Field(min_length=1)]
    """Container image of the training pods."""
    queue: Name | None = None
    """Kueue local queue: the pods start when all of them can."""
    priority_class: Name | None = None
    """Priority class of the pods."""
    service_account: Name | None = None
    """Service account of the pods, such as one with access to the artifact root."""
    gpu_resource: str | None = "nvidia.com/gpu"
    """The device plugin's resource name, asked for once per rank; none: training on CPUs."""
    rdma_resource: str | None = None
    """The RDMA device plugin's resource name, such as rdma/hca; none: no RDMA."""
    rdma_devices_per_node: Annotated[int, Gt(0)] = 1
    """RDMA devices that a pod asks for, where rdma_resource is given."""
    cpu: Quantity | None = None
    """CPUs that a pod asks for."""
    memory: Quantity | None = None
    """Memory that a pod asks for and may use."""
    shared_memory: Quantity = "64Gi"
    """Upper bound of /dev/shm, which NCCL and data loaders use; it counts as the pod's memory."""
    secrets: tuple[Name, ...] = ()
    """Secrets whose entries become environment variables: credentials of the artifact root, W&B's key."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further environment variables, such as NCCL's. Nothing secret: anyone who can read pods sees it."""
    claims: dict[Name, str] = Field(default_factory=dict)
    """Persistent volume claims and where they are mounted, for an artifact root on a shared disk."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints that are tolerated."""
    allow_root: bool = False
    """Lets the image run as root; otherwise a pod whose image says root does not start."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts after a crash. Evictions and preemptions don't count: training resumes by itself."""
    ttl_seconds: Annotated[int, Gt(0)] = 86_400
    """How long an ended JobSet stays to be looked at."""
    rendezvous_port: Annotated[int, Gt(1023), Le(65_535)] = 29_500
    """Port of the first pod where the ranks meet."""

    @field_validator("environment")
    @classmethod
    def _holds_no_secret(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if names_secret(name) or holds_secret(value):
                raise ValueError(f"{name} looks like a secret: put it in a Secret and name that in `secrets`")
        return environment
