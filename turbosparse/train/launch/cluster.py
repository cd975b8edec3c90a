"""The few calls to a Kubernetes API that a launcher makes, over plain HTTP.

The official client is 75 MB, takes seconds to import, and its generated code has no `sinceTime`, without
which a log can't be read on where it broke off.
"""

import json
import os
import ssl
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from turbosparse.errors import ConfigError, TrainingError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OUTAGE_SECONDS = 600.0
LONGEST_PAUSE_SECONDS = 15.0
TIMEOUT_SECONDS = 30.0
PASSING = (429, 500, 502, 503, 504)

JOBSETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"

Object = dict[str, Any]


class Cluster:
    """One namespace of a cluster. Outages are sat out for ten minutes."""

    def __init__(self, namespace: str, api_url: str | None, outage_seconds: float = OUTAGE_SECONDS) -> None:
        self._namespace = namespace
        self._outage_seconds = outage_seconds
        if api_url is not None:
            self._http = httpx.Client(base_url=api_url, timeout=TIMEOUT_SECONDS)
            return
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise ConfigError(
                "placement.jobset.api_url",
                None,
                "a Kubernetes API",
                "run in a pod, or give `kubectl proxy`'s URL",
            )
        host, port = (os.environ[f"KUBERNETES_SERVICE_{part}"] for part in ("HOST", "PORT"))
        certificates = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self._http = httpx.Client(
            base_url=f"https://{host}:{port}",
            verify=certificates,
            auth=_ServiceAccount(),
            timeout=TIMEOUT_SECONDS,
        )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def create(self, collection: str, manifest: Object) -> Object | None:
        """Creates an object and returns it; None: there is one of its name."""
        response = self._ask("POST", collection, json=manifest)
        return None if response.status_code == 409 else _content(response)

    def get(self, collection: str, name: str) -> Object | None:
        """Returns an object; None: there is none."""
        response = self._ask("GET", f"{collection}/{name}")
        return None if response.status_code == 404 else _content(response)

    def find(self, collection: str, labels: str) -> list[Object]:
        """Returns the objects with labels, given as a selector."""
        found: list[Object] = _content(self._ask("GET", collection, params={"labelSelector": labels}))[
            "items"
        ]
        return found

    def delete(self, collection: str, name: str) -> None:
        """Deletes an object after everything that it owns; it may be gone already."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        response = self._ask("DELETE", f"{collection}/{name}", json=options)
        if response.status_code != 404:
            _content(response)

    def wait_for_change(self, collection: str, thing: Object, seconds: int) -> None:
        """Returns when an object changes, or after a while; what it is then is for `get` to say."""
        params = {
            "watch": "true",
            "fieldSelector": f"metadata.name={thing['metadata']['name']}",
            "resourceVersion": thing["metadata"]["resourceVersion"],
            "timeoutSeconds": str(seconds),
        }
        next(self._stream(collection, params, seconds + 5.0), None)

    def follow_log(self, pod: str, since: str | None, idle_seconds: float) -> Iterator[str]:
        """Gives the lines of a pod's log, each after its time, until it ends or pauses for a while.

        Args:
            pod: The pod's name.
            since: Where to begin; lines of the same second may come again.
            idle_seconds: The pause after which the caller gets its turn.
        """
        params = {"follow": "true", "timestamps": "true"} | ({} if since is None else {"sinceTime": since})
        yield from self._stream(f"{PODS}/{pod}/log", params, idle_seconds)

    def log_end(self, pod: str, num_lines: int) -> list[str]:
        """Returns the last lines of a pod's log; none if the log is gone with its node."""
        response = self._ask("GET", f"{PODS}/{pod}/log", params={"tailLines": str(num_lines)})
        return response.text.splitlines() if response.is_success else []

    def _stream(self, path: str, params: dict[str, str], idle_seconds: float) -> Iterator[str]:
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=idle_seconds)
        try:
            with self._http.stream("GET", self._path(path), params=params, timeout=timeout) as response:
                # Whatever is wrong, the next `get` learns it, and is patient or not.
                if response.is_success:
                    yield from response.iter_lines()
        except httpx.TransportError:
            return

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        started, pause = time.monotonic(), 0.5
        while True:
            try:
                response = self._http.request(method, self._path(path), **content)
                problem = f"status {response.status_code}: {_message(response)}"
                if response.status_code not in PASSING:
                    return response
            except httpx.TransportError as error:
                problem = repr(error)
            if time.monotonic() - started > self._outage_seconds:
                raise TrainingError(
                    f"the Kubernetes API was away for {self._outage_seconds:.0f} s: {problem}"
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _path(self, path: str) -> str:
        return path.format(namespace=self._namespace)


class _ServiceAccount(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # Read each time: the kubelet renews it.
        request.headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text().strip()}"
        yield request


def _content(response: httpx.Response) -> Object:
    if not response.is_success:
        raise ConfigError(
            "placement.jobset",
            f"{response.request.method} {response.request.url.path}",
            "the cluster to allow this",
            f"it answered {response.status_code}: {_message(response)}",
        )
    content: Object = response.json()
    return content


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json().get("message", response.text))
    except (json.JSONDecodeError, AttributeError):
        return response.text[:200]
