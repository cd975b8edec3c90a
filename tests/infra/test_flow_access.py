"""The flow's Role in the cluster: exactly what launching, following and cancelling a training ask for."""

import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from documents import KUBERNETES, read_documents
from fake_kubernetes import PATH, FakeKubernetes

from turbosparse.config import Placement
from turbosparse.errors import TrainingError
from turbosparse.train.launch import Program, open_launcher
from turbosparse.train.launch.manifest import name_of

PROGRAM = Program("pretrain", "0123456789abcdef", '{"job": 1}', "unused")
NAME = name_of(PROGRAM)
GROUPS = {"jobsets": "jobset.x-k8s.io", "jobs": "batch", "pods": "", "configmaps": ""}


class Cancelled(BaseException):
    """As Prefect's termination signal."""


def launch(cluster, play, on_event=lambda event: None):
    settings = {"namespace": "turbosparse", "image": "image:1", "gpu_resource": None, "api_url": cluster.url}
    limits = {"preemption_grace_seconds": 1.0}
    place = Placement(launcher="jobset", supervision=limits, jobset=settings)
    threading.Thread(target=play, daemon=True).start()
    open_launcher(place).launch(PROGRAM, on_event, lambda line: None)


def asked_for(cluster):
    """Returns what was asked of the API, as a Role would allow it: (group, resource, verb)."""
    found = set()
    for method, path in cluster.requests:
        parts = urlsplit(path)
        match = PATH.match(parts.path)
        verb = {"POST": "create", "DELETE": "delete"}.get(method)
        if verb is None:
            is_watch = parse_qs(parts.query).get("watch") == ["true"]
            verb = "get" if match["name"] else "watch" if is_watch else "list"
        resource = f"{match['kind']}/log" if match["log"] else match["kind"]
        found.add((GROUPS[match["kind"]], resource, verb))
    return found


@pytest.fixture
def cluster(monkeypatch):
    """A cluster in which the flow runs as the pod of a Job."""
    cluster = FakeKubernetes(lambda kind, thing: None)
    monkeypatch.setenv("POD_NAME", "flow-pod")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "flow", "uid": "1", "controller": True}
    pod = {"name": "flow-pod", "labels": {}, "ownerReferences": [owner], "deletionTimestamp": "2026-01-01"}
    cluster.put("pods", {"metadata": pod, "status": {"phase": "Running"}})
    yield cluster
    cluster.close()


def test_the_role_is_what_a_flow_asks_for(cluster):
    def succeed():
        cluster.wait_for(lambda: NAME in cluster.objects["jobsets"])
        cluster.add_pod("pod-0", NAME)
        time.sleep(0.5)
        cluster.end_pod("pod-0", 0)
        cluster.end_jobset(NAME, "Completed")

    launch(cluster, succeed)

    def fail():
        cluster.wait_for(lambda: not cluster.objects["jobsets"].get(NAME, {}).get("status"))
        cluster.wait_for(lambda: NAME in cluster.objects["jobsets"])
        cluster.add_pod("pod-1", NAME)
        cluster.write("pod-1", "it broke")
        cluster.end_pod("pod-1", 1)
        cluster.end_jobset(NAME, "Failed")

    with pytest.raises(TrainingError):
        launch(cluster, fail)

    def step():
        cluster.wait_for(lambda: not cluster.objects["jobsets"].get(NAME, {}).get("status"))
        cluster.wait_for(lambda: NAME in cluster.objects["jobsets"])
        cluster.add_pod("pod-2", NAME)
        cluster.write("pod-2", '{"turbosparse": "step", "values": {"step": 1}}')

    def cancel(event):
        raise Cancelled

    with pytest.raises(Cancelled):
        launch(cluster, step, cancel)

    (role,) = [
        document
        for document in read_documents(KUBERNETES / "turbosparse" / "access.yaml")
        if document["kind"] == "Role" and document["metadata"]["name"] == "flow"
    ]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked_for(cluster) - allowed == set(), "a flow would be refused"
    assert allowed - asked_for(cluster) == set(), "nobody asks for it"
