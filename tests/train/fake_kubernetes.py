"""A small Kubernetes API over real HTTP: the paths, watches and log streams that a launcher meets.

The test plays controller and kubelet: it starts pods, writes their logs, ends them.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = re.compile(
    r"/apis?/(?:[^/]+/)?[^/]+/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)(/(?P<name>[^/]+))?(?P<log>/log)?$"
)
START = datetime(2026, 1, 1, tzinfo=UTC)
Object = dict[str, Any]


class FakeKubernetes:
    """The state of one namespace, and a server that shows it."""

    def __init__(self, validate: Callable[[str, Object], str | None]) -> None:
        self.changed = threading.Condition()
        self.objects: dict[str, dict[str, Object]] = {
            "jobsets": {},
            "pods": {},
            "configmaps": {},
            "jobs": {},
        }
        self.logs: dict[str, list[tuple[datetime, str]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Object] = []
        self.is_away = False
        self.deletion_seconds = 0.0
        self.num_dropped = 0
        self._validate = validate
        self._version = 0
        self._now = START
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        server.daemon_threads = True
        # Launchers break connections off as they like.
        server.handle_error = lambda request, address: None
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        with self.changed:
            self.is_away = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def put(self, kind: str, thing: Object) -> Object:
        """Creates or changes an object."""
        with self.changed:
            self._version += 1
            metadata = thing["metadata"]
            metadata.setdefault("uid", f"uid-{self._version}")
            metadata.setdefault("creationTimestamp", f"{START + timedelta(seconds=self._version):%FT%TZ}")
            metadata["resourceVersion"] = str(self._version)
            self.objects[kind][metadata["name"]] = thing
            self.changed.notify_all()
            return thing

    def remove(self, kind: str, name: str) -> None:
        with self.changed:
            self.objects[kind].pop(name, None)
            self.changed.notify_all()

    def add_pod(self, name: str, jobset: str, index: int = 0, attempt: int = 0) -> None:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": jobset,
            "batch.kubernetes.io/job-completion-index": str(index),
            "jobset.sigs.k8s.io/restart-attempt": str(attempt),
        }
        self.logs[name] = []
        self.put("pods", {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Running"}})

    def write(self, pod: str, *lines: str, seconds: float = 0.25) -> None:
        """Writes lines to a pod's log, all at one time."""
        with self.changed:
            self._now += timedelta(seconds=seconds)
            self.logs[pod] += [(self._now, line) for line in lines]
            self.changed.notify_all()

    def end_pod(self, name: str, exit_code: int) -> None:
        pod = self.objects["pods"][name]
        self._now += timedelta(seconds=1)
        ended = {"exitCode": exit_code, "finishedAt": f"{self._now:%FT%TZ}", "reason": "Error"}
        pod["status"] = {
            "phase": "Failed" if exit_code else "Succeeded",
            "containerStatuses": [{"state": {"terminated": ended}}],
        }
        self.put("pods", pod)

    def end_jobset(self, name: str, condition: str, message: str = "") -> None:
        jobset = self.objects["jobsets"][name]
        ended = {"type": condition, "status": "True", "message": message}
        self.put("jobsets", {**jobset, "status": {"conditions": [ended]}})

    def drop_connections(self) -> None:
        """Breaks every open log stream, in the middle of a chunk."""
        with self.changed:
            self.num_dropped += 1
            self.changed.notify_all()

    def num_log_requests(self) -> int:
        return sum(urlsplit(path).path.endswith("/log") for _, path in list(self.requests))

    def wait_for(self, what: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Waits for something to become true of the state."""
        with self.changed:
            assert self.changed.wait_for(what, seconds), "it did not happen"
            return what()

    def refuse(self, kind: str, thing: Object) -> str | None:
        """Returns why an object is invalid."""
        return self._validate(kind, thing)

    def delete(self, kind: str, name: str) -> None:
        """Foreground deletion: the object stays, marked, until its pods have ended."""
        self.put(kind, self._marked(self.objects[kind][name]))
        threading.Timer(self.deletion_seconds, self._finish_deletion, (kind, name)).start()

    def _finish_deletion(self, kind: str, name: str) -> None:
        for pod, thing in list(self.objects["pods"].items()):
            if thing["metadata"]["labels"].get("jobset.sigs.k8s.io/jobset-name") == name:
                self.remove("pods", pod)
        self.remove(kind, name)

    def _marked(self, thing: Object) -> Object:
        return {**thing, "metadata": {**thing["metadata"], "deletionTimestamp": f"{self._now:%FT%TZ}"}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: FakeKubernetes

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        kind, name, is_log, query = self._enter()
        if kind is None:
            return
        if is_log:
            self._log(str(name), query)
        elif name is not None:
            self._one(kind, name)
        elif query.get("watch") == "true":
            self._watch(kind, query)
        else:
            self._list(kind, query)

    def do_POST(self) -> None:
        kind, *_ = self._enter()
        thing = self._body()
        if kind is None:
            return
        problem = self.cluster.refuse(kind, thing)
        if problem is not None:
            self._status(422, problem)
        elif thing["metadata"]["name"] in self.cluster.objects[kind]:
            self._status(409, f"{kind} {thing['metadata']['name']!r} already exists")
        else:
            self._json(201, self.cluster.put(kind, thing))

    def do_DELETE(self) -> None:
        kind, name, *_ = self._enter()
        self.cluster.bodies.append(self._body())
        if kind is None or name not in self.cluster.objects[kind]:
            self._status(404, "not found")
            return
        self.cluster.delete(kind, name)
        self._json(200, {"kind": "Status", "status": "Success"})

    def _enter(self) -> tuple[str | None, str | None, bool, dict[str, str]]:
        parts = urlsplit(self.path)
        self.cluster.requests.append((self.command, self.path))
        found = PATH.match(parts.path)
        if self.cluster.is_away:
            self._status(503, "the API is away")
            return None, None, False, {}
        assert found is not None, self.path
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return found["kind"], found["name"], found["log"] is not None, query

    def _one(self, kind: str, name: str) -> None:
        thing = self.cluster.objects[kind].get(name)
        if thing is None:
            self._status(404, f"{kind} {name!r} not found")
        else:
            self._json(200, thing)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
        things = list(self.cluster.objects[kind].values())
        items = [thing for thing in things if wanted.items() <= thing["metadata"].get("labels", {}).items()]
        self._json(200, {"kind": "List", "items": items})

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        name = query["fieldSelector"].removeprefix("metadata.name=")
        deadline = time.monotonic() + float(query["timeoutSeconds"])
        self._start_chunks()
        with self.cluster.changed:
            self.cluster.changed.wait_for(
                lambda: self._version_of(kind, name) != query["resourceVersion"],
                deadline - time.monotonic(),
            )
            thing = self.cluster.objects[kind].get(name)
        if thing is not None and thing["metadata"]["resourceVersion"] != query["resourceVersion"]:
            self._chunk(json.dumps({"type": "MODIFIED", "object": thing}) + "\n")
        self._chunk("")

    def _version_of(self, kind: str, name: str) -> str | None:
        thing = self.cluster.objects[kind].get(name)
        return None if thing is None else thing["metadata"]["resourceVersion"]

    def _log(self, pod: str, query: dict[str, str]) -> None:
        if pod not in self.cluster.objects["pods"]:
            self._status(404, "no such pod")
            return
        self._start_chunks()
        since = query.get("sinceTime")
        # As the real API: whole seconds.
        start = datetime.fromisoformat(since).replace(microsecond=0) if since else START
        first = len(self.cluster.logs[pod]) - int(query.get("tailLines", 10**9))
        position, num_dropped = max(0, first), self.cluster.num_dropped
        while True:
            with self.cluster.changed:
                lines = self.cluster.logs[pod][position:]
                position += len(lines)
            for moment, line in lines:
                if moment >= start:
                    stamp = f"{moment:%FT%T.%f}000Z " if query.get("timestamps") == "true" else ""
                    self._chunk(f"{stamp}{line}\n")
            if self.cluster.num_dropped > num_dropped:
                self.wfile.write(b"40\r\n2026-01-01T00:00:0")
                self.close_connection = True
                return
            if query.get("follow") != "true" or self._is_over(pod):
                break
            with self.cluster.changed:
                self.cluster.changed.wait(0.2)
        self._chunk("")

    def _is_over(self, pod: str) -> bool:
        thing = self.cluster.objects["pods"].get(pod)
        is_over = thing is None or thing["status"]["phase"] != "Running"
        return self.cluster.is_away or is_over

    def _body(self) -> Object:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def _status(self, code: int, message: str) -> None:
        self._json(code, {"kind": "Status", "status": "Failure", "code": code, "message": message})

    def _json(self, code: int, content: Object) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _start_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
