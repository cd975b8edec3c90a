"""The files of infra/, and what any of them must hold to: exact images, locked pods, no secret values."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasChoices

INFRA = Path(__file__).resolve().parents[2] / "infra"
KUBERNETES = INFRA / "kubernetes"
EXACT = re.compile(r"[a-z0-9./-]+(:v?\d+\.\d+(\.\d+)?[a-z0-9.-]*)?(@sha256:[0-9a-f]{64})?")
"""An image with an exact version, or a digest."""

Document = dict[str, Any]


def read_documents(path: Path) -> list[Document]:
    """Returns a YAML file's documents."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def render(folder: Path) -> list[Document]:
    """Returns an overlay's documents as kustomize makes them: as much of it as ours ask for."""
    (overlay,) = read_documents(folder / "kustomization.yaml")
    documents: list[Document] = []
    for name in overlay["resources"]:
        path = (folder / name).resolve()
        documents += render(path) if path.is_dir() else read_documents(path)
    for generator in overlay.get("configMapGenerator", []):
        data = dict(literal.split("=", 1) for literal in generator["literals"])
        metadata = {"name": generator["name"]}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    tags = {image["name"]: image["newTag"] for image in overlay.get("images", [])}
    for document in documents:
        if document["kind"] != "Namespace" and "namespace" in overlay:
            _place(document, overlay["namespace"])
        for _, pod in pods_of([document]):
            for container in pod["spec"]["containers"]:
                name = container["image"]
                container["image"] = f"{name}:{tags[name]}" if name in tags else name
    return documents


def _place(document: Document, namespace: str) -> None:
    document["metadata"]["namespace"] = namespace
    for subject in document.get("subjects", []):
        subject["namespace"] = namespace


def is_exact(image: str) -> bool:
    """Returns whether an image is always the same: a version down to its last part, or a digest."""
    return EXACT.fullmatch(image) is not None and (":" in image.rpartition("/")[2] or "@sha256:" in image)


def pods_of(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Yields the pod templates of workloads, by kind and name."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield f"{document['kind']}/{document['metadata']['name']}", document["spec"]["template"]


def unlocked(pod: Document) -> list[str]:
    """Returns what of Kubernetes' `restricted` standard a pod's specification breaks."""
    security = pod.get("securityContext", {})
    problems = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    if security.get("runAsNonRoot") is not True:
        problems.append("may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problems.append("no seccomp profile")
    problems += ["a host path" for volume in pod.get("volumes", []) if "hostPath" in volume]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            problems.append(f"{container['name']} may gain privileges")
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            problems.append(f"{container['name']} keeps capabilities")
    return problems


def prefect_variables() -> set[str]:
    """Returns the environment variables that Prefect and its integrations know."""
    from prefect.settings.models.root import Settings  # noqa: PLC0415 - seconds
    from prefect_kubernetes.settings import KubernetesSettings  # noqa: PLC0415
    from prefect_redis.client import RedisMessagingSettings  # noqa: PLC0415

    return {
        name for model in (Settings, KubernetesSettings, RedisMessagingSettings) for name in _names(model)
    }


def _names(model: Any) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _names(field.annotation)
        yield f"{model.model_config.get('env_prefix', '')}{name}".upper()
        if isinstance(field.validation_alias, AliasChoices):
            yield from (alias.upper() for alias in field.validation_alias.choices if isinstance(alias, str))
