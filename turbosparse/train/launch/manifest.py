"""The JobSet of a training program: typed settings in, a Kubernetes object out."""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from turbosparse.config import JobSetConfig, Placement
from turbosparse.train.launch.command import AgentOptions
from turbosparse.train.launch.program import Program

API_VERSION = "jobset.x-k8s.io/v1alpha2"
DIGEST_ANNOTATION = "turbosparse/job-digest"
NAME_LABEL = "jobset.sigs.k8s.io/jobset-name"
CONTAINER = "trainer"
JOB_FOLDER = "/etc/turbosparse"
JOB_NAME = "job.json"
REPLICATED_JOB = "train"
# The agent notices SIGTERM, waits for its ranks' grace and cleans up before the kubelet kills it.
SECONDS_TO_CLEAN_UP = 6
SECCOMP = {"type": "RuntimeDefault"}
FILE_GROUP = 10001
"""Owns what pods write to a claim, whatever user their image says; infra/image's user is in it."""


@dataclass(frozen=True)
class Owner:
    """The object with which the training ends."""

    api_version: str
    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Returns it as an owner reference."""
        return {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}


def name_of(program: Program) -> str:
    """Returns the JobSet's name: the same training, launched again, finds itself."""
    return f"turbosparse-{program.name}-{program.identity[:16]}"


def digest_of(program: Program) -> str:
    """Returns what tells one job from another of the same name."""
    return hashlib.sha256(f"{program.worker}\n{program.job}".encode()).hexdigest()


def job_config_map(program: Program, owner: Owner) -> dict[str, Any]:
    """Returns the object that carries the job file to the pods."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _config_map_name(program), "ownerReferences": [owner.reference()]},
        "immutable": True,
        "data": {JOB_NAME: program.job},
    }


def build_jobset(
    program: Program, place: Placement, config: JobSetConfig, owner: Owner | None
) -> dict[str, Any]:
    """Returns the JobSet: one indexed Job with a pod per node, torchrun in each.

    Crashes restart all pods `max_restarts` times. Evictions, and ranks that stopped after a
    checkpoint because they were told to, restart them without counting.
    """
    metadata: dict[str, Any] = {
        "name": name_of(program),
        "labels": {"app.kubernetes.io/name": "turbosparse", "app.kubernetes.io/component": program.name},
        "annotations": {DIGEST_ANNOTATION: digest_of(program), "turbosparse/identity": program.identity},
    }
    if config.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = config.queue
    if owner is not None:
        metadata["ownerReferences"] = [owner.reference()]
    told_or_evicted = {
        "name": "told_or_evicted",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    spec = {
        # Ranks meet before pods are ready: a pod is ready when it trains.
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All"},
        "failurePolicy": {"maxRestarts": config.max_restarts, "rules": [told_or_evicted]},
        "ttlSecondsAfterFinished": config.ttl_seconds,
        "replicatedJobs": [
            {"name": REPLICATED_JOB, "replicas": 1, "template": {"spec": _job(program, place, config)}}
        ],
    }
    return {"apiVersion": API_VERSION, "kind": "JobSet", "metadata": metadata, "spec": spec}


def _job(program: Program, place: Placement, config: JobSetConfig) -> dict[str, Any]:
    told = {"containerName": CONTAINER, "operator": "In", "values": [os.EX_TEMPFAIL]}
    evicted = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "completionMode": "Indexed",
        "completions": place.num_nodes,
        "parallelism": place.num_nodes,
        # A lone pod can't rejoin the others: the JobSet restarts all of them.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": told},
                {"action": "FailJob", "onPodConditions": evicted},
            ]
        },
        "template": {"spec": _pod(program, place, config)},
    }


def _pod(program: Program, place: Placement, config: JobSetConfig) -> dict[str, Any]:
    grace_seconds = math.ceil(place.supervision.preemption_grace_seconds) + SECONDS_TO_CLEAN_UP
    # Ranks ask the Kubernetes API nothing, and whoever takes one over shall not either.
    security: dict[str, Any] = {"runAsNonRoot": not config.allow_root, "seccompProfile": SECCOMP}
    if config.claims:
        security |= {"fsGroup": FILE_GROUP, "fsGroupChangePolicy": "OnRootMismatch"}
    optional = {
        "serviceAccountName": config.service_account,
        "priorityClassName": config.priority_class,
        "nodeSelector": config.node_selector,
        "tolerations": [_toleration(taint.key, taint.value, taint.effect) for taint in config.tolerations],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": False,
        "securityContext": security,
        "containers": [_container(program, place, config)],
        "volumes": _volumes(program, config),
        **{name: value for name, value in optional.items() if value},
    }


def _container(program: Program, place: Placement, config: JobSetConfig) -> dict[str, Any]:
    mounts = [
        {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - where Linux keeps it
        *({"name": claim, "mountPath": path} for claim, path in config.claims.items()),
    ]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": config.image,
        "command": _agent(program, place, config),
        "env": [{"name": name, "value": value} for name, value in config.environment.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in config.secrets],
        "ports": [{"name": "rendezvous", "containerPort": config.rendezvous_port, "protocol": "TCP"}],
        "resources": _resources(place, config),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if config.rdma_resource is not None:
        # RDMA pins memory.
        container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    return container


def _agent(program: Program, place: Placement, config: JobSetConfig) -> list[str]:
    name = name_of(program)
    options = AgentOptions.of(place, f"{JOB_FOLDER}/{JOB_NAME}", program.worker)
    meeting = None
    if place.num_nodes > 1:
        # JobSet's stable host name of the first pod: <jobset>-<job>-<job index>-<pod index>.<jobset>
        meeting = f"{name}-{REPLICATED_JOB}-0-0.{name}:{config.rendezvous_port}"
    return replace(options, rendezvous=meeting).command("python")


def _resources(place: Placement, config: JobSetConfig) -> dict[str, Any]:
    devices: dict[str, str] = {}
    if config.gpu_resource is not None:
        devices[config.gpu_resource] = str(place.num_ranks)
    if config.rdma_resource is not None:
        devices[config.rdma_resource] = str(config.rdma_devices_per_node)
    memory = {} if config.memory is None else {"memory": config.memory}
    cpu = {} if config.cpu is None else {"cpu": config.cpu}
    return {"limits": {**devices, **memory}, "requests": {**devices, **memory, **cpu}}


def _volumes(program: Program, config: JobSetConfig) -> list[dict[str, Any]]:
    return [
        {"name": "job", "configMap": {"name": _config_map_name(program)}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": config.shared_memory}},
        *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in config.claims),
    ]


def _toleration(key: str, value: str | None, effect: str) -> dict[str, str]:
    if value is None:
        return {"key": key, "operator": "Exists", "effect": effect}
    return {"key": key, "operator": "Equal", "value": value, "effect": effect}


def _config_map_name(program: Program) -> str:
    return f"{name_of(program)}-{digest_of(program)[:8]}"
