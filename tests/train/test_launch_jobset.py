"""The jobset launcher: a manifest that the CRD accepts, and a life cycle against an API over HTTP."""

import json
import os
import signal
import threading
import time

import pytest
from fake_kubernetes import FakeKubernetes
from kubeflow_trainer_api.models import (
    IoK8sApiCoreV1EnvFromSource,
    IoK8sApiCoreV1ResourceRequirements,
    JobsetV1alpha2JobSet,
)

from turbosparse.config import JobSetConfig, Placement, validate
from turbosparse.errors import ConfigError, DataError, TrainingError, TrainingPreempted
from turbosparse.train.launch import Program, open_launcher
from turbosparse.train.launch.command import parse_options
from turbosparse.train.launch.manifest import build_jobset

PROGRAM = Program("pretrain", "0123456789abcdef0123", '{"job": 1}', "unused")
NAME = "turbosparse-pretrain-0123456789abcdef"
CONFIG = {
    "namespace": "research",
    "image": "registry/turbosparse:1",
    "queue": "gpus",
    "priority_class": "training",
    "service_account": "trainer",
    "rdma_resource": "rdma/hca",
    "rdma_devices_per_node": 8,
    "cpu": "96",
    "memory": "1500Gi",
    "secrets": ["artifact-root", "wandb"],
    "environment": {"NCCL_DEBUG": "WARN"},
    "claims": {"runs": "/runs"},
    "node_selector": {"pool": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "team", "value": "llm", "effect": "NoExecute"}],
}


def schema_problem(kind, thing):
    """Returns what the CRD's models do not know: they drop it, or complain."""
    if kind != "jobsets":
        return None
    try:
        known = JobsetV1alpha2JobSet.from_dict(thing).to_dict()
    except ValueError as error:
        return str(error)
    return None if known == thing else f"unknown or lost: {thing!r} became {known!r}"


@pytest.fixture
def cluster():
    cluster = FakeKubernetes(schema_problem)
    yield cluster
    cluster.close()


def placement(cluster=None, **settings):
    limits = {"preemption_grace_seconds": 1.0}
    config = {**CONFIG, "api_url": cluster.url if cluster else None, **settings}
    return Placement(launcher="jobset", num_nodes=2, num_ranks=8, supervision=limits, jobset=config)


def manifest(**settings):
    place = placement(**settings)
    return build_jobset(PROGRAM, place, place.jobset, None)


def pod_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_crd_knows_every_field_of_the_manifest():
    minimal = JobSetConfig(namespace="a", image="b", gpu_resource=None)
    for jobset in (manifest(), build_jobset(PROGRAM, Placement(), minimal, None)):
        assert schema_problem("jobsets", jobset) is None
    jobset = manifest()
    pod_of(jobset)["containers"][0]["gpus"] = 8
    assert schema_problem("jobsets", jobset) is not None, "or the check would pass anything"


def test_a_node_is_a_pod_with_its_devices_and_the_first_is_where_they_meet(monkeypatch):
    jobset = manifest()
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    container = pod_of(jobset)["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "rdma/hca": "8", "memory": "1500Gi"}
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    told = parse_options(container["command"][3:])
    assert (told.num_nodes, told.num_ranks, told.node_rank) == (2, 8, 1)
    assert told.rendezvous == f"{NAME}-train-0-0.{NAME}:29500", "JobSet's stable host name"
    assert IoK8sApiCoreV1ResourceRequirements.from_dict(container["resources"])


def test_secrets_are_named_and_never_shown():
    container = pod_of(manifest())["containers"][0]
    assert [IoK8sApiCoreV1EnvFromSource.from_dict(source).secret_ref.name for source in container["envFrom"]]
    assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["artifact-root", "wandb"]
    with pytest.raises(ConfigError, match="WANDB_API_KEY looks like a secret"):
        validate(JobSetConfig, {**CONFIG, "environment": {"WANDB_API_KEY": "x"}}, source="the test")


def test_pods_are_locked_as_the_clusters_strictest_standard_asks():
    pod = pod_of(manifest(rdma_resource=None))
    assert pod["automountServiceAccountToken"] is False, "ranks ask the API nothing"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["containers"][0]["securityContext"] == locked
    with_rdma = pod_of(manifest())["containers"][0]["securityContext"]["capabilities"]
    assert with_rdma == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert pod_of(manifest(allow_root=True))["securityContext"]["runAsNonRoot"] is False


def test_evictions_restart_without_counting_and_crashes_count():
    jobset = manifest()
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert policy["rules"][0] == {
        "name": "told_or_evicted",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    rules = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["values"] == [os.EX_TEMPFAIL]
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert pod_of(jobset)["terminationGracePeriodSeconds"] > 1.0, "longer than the ranks' own grace"


class Launch(threading.Thread):
    """A launch beside the test, which plays the cluster."""

    def __init__(self, cluster, program=PROGRAM, **settings):
        super().__init__(daemon=True)
        self.steps, self.log, self.error = [], [], None
        self._arguments = (program, lambda event: self.steps.append(event.values["step"]), self.log.append)
        self._launcher = open_launcher(placement(cluster, **settings))
        self.start()

    def run(self):
        try:
            self._launcher.launch(*self._arguments)
        except BaseException as error:
            self.error = error

    def result(self):
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.steps


def step(number):
    return json.dumps({"turbosparse": "step", "values": {"step": number}})


def start_pods(cluster, attempt=0):
    cluster.wait_for(lambda: NAME in cluster.objects["jobsets"])
    for index in (1, 0):
        cluster.add_pod(f"pod-{index}-{attempt}", NAME, index, attempt)


def eventually(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_training_runs_to_its_end_and_its_job_file_belongs_to_it(cluster):
    launch = Launch(cluster)
    start_pods(cluster)
    cluster.write("pod-0-0", "starting", step(1), step(2))
    cluster.write("pod-1-0", step(99))
    cluster.end_pod("pod-0-0", 0)
    cluster.end_jobset(NAME, "Completed")
    assert launch.result() == [1, 2], "rank 0's events alone"
    assert "starting" in launch.log
    (job_file,) = cluster.objects["configmaps"].values()
    assert job_file["data"] == {"job.json": PROGRAM.job}
    jobset = cluster.objects["jobsets"][NAME]
    assert job_file["metadata"]["ownerReferences"][0]["uid"] == jobset["metadata"]["uid"]
    mounted = {volume["name"]: volume for volume in pod_of(jobset)["volumes"]}
    assert mounted["job"]["configMap"]["name"] == job_file["metadata"]["name"]


def test_broken_connections_lose_and_double_nothing(cluster):
    """`sinceTime` counts whole seconds, and several lines may carry one time."""
    launch = Launch(cluster)
    start_pods(cluster)
    for number in range(0, 40, 4):
        cluster.write("pod-0-0", *(step(n) for n in range(number, number + 4)), seconds=0.3)
        eventually(lambda last=number: launch.steps and launch.steps[-1] >= last)
        num_requests = cluster.num_log_requests()
        cluster.drop_connections()
        eventually(lambda seen=num_requests: cluster.num_log_requests() > seen)
    cluster.is_away = True
    time.sleep(1.0)
    cluster.is_away = False
    cluster.write("pod-0-0", step(40), seconds=0.0)
    cluster.end_pod("pod-0-0", 0)
    cluster.end_jobset(NAME, "Completed")
    assert launch.result() == list(range(41))
    assert sum("sinceTime" in path for _, path in cluster.requests) >= 10


def test_restarted_pods_are_followed(cluster):
    launch = Launch(cluster)
    start_pods(cluster)
    cluster.write("pod-0-0", step(1))
    eventually(lambda: launch.steps == [1])
    cluster.end_pod("pod-0-0", 75)
    start_pods(cluster, attempt=1)
    cluster.write("pod-0-1", step(2))
    eventually(lambda: launch.steps == [1, 2])
    cluster.end_pod("pod-0-1", 0)
    cluster.end_jobset(NAME, "Completed")
    assert launch.result() == [1, 2]


def test_a_failure_is_told_in_the_words_of_the_pod_that_failed_first(cluster):
    launch = Launch(cluster)
    start_pods(cluster)
    cluster.write("pod-0-0", step(1), "rank 0 lost its peer")
    failure = json.dumps({"turbosparse": "failure", "values": {"rank": 9, "exit_status": -11}})
    cluster.write("pod-1-0", "the words of rank 9", failure)
    cluster.end_pod("pod-1-0", 1)
    cluster.end_pod("pod-0-0", 1)
    cluster.end_jobset(NAME, "Failed", "out of restarts")
    with pytest.raises(TrainingError) as error:
        launch.result()
    assert str(error.value) == "rank 9 was ended by SIGSEGV:\npod pod-1-0, Error\nthe words of rank 9"


def test_a_failed_jobset_gives_way_to_the_next_attempt(cluster):
    first = Launch(cluster)
    start_pods(cluster)
    cluster.end_pod("pod-0-0", 75)
    cluster.end_jobset(NAME, "Failed")
    with pytest.raises(TrainingPreempted):
        first.result()
    failed = cluster.objects["jobsets"][NAME]["metadata"]["uid"]
    second = Launch(cluster)
    cluster.wait_for(
        lambda: cluster.objects["jobsets"].get(NAME, {}).get("metadata", {}).get("uid", failed) != failed
    )
    start_pods(cluster)
    cluster.write("pod-0-0", step(1))
    cluster.end_pod("pod-0-0", 0)
    cluster.end_jobset(NAME, "Completed")
    assert second.result() == [1]


def test_a_jobset_of_another_job_is_not_joined(cluster):
    first = Launch(cluster)
    start_pods(cluster)
    other = Program("pretrain", PROGRAM.identity, '{"job": 2}', "unused")
    with pytest.raises(ConfigError, match="runs with other settings"):
        Launch(cluster, other).result()
    assert NAME in cluster.objects["jobsets"], "and is left alone"
    cluster.end_pod("pod-0-0", 0)
    cluster.end_jobset(NAME, "Completed")
    first.result()


def test_what_the_cluster_refuses_is_the_users_to_mend(cluster, monkeypatch):
    monkeypatch.setattr(cluster, "refuse", lambda kind, thing: "quota exceeded")
    with pytest.raises(ConfigError, match=r"placement\.jobset: 'POST .*jobsets'.*422: quota exceeded"):
        Launch(cluster).result()


def test_pods_without_their_job_file_are_not_left_behind(cluster, monkeypatch):
    def refuse(kind, thing):
        return "quota exceeded" if kind == "configmaps" else None

    monkeypatch.setattr(cluster, "refuse", refuse)
    with pytest.raises(ConfigError, match="quota exceeded"):
        Launch(cluster).result()
    assert NAME not in cluster.objects["jobsets"]


def test_a_refused_input_ends_the_jobset_at_once(cluster):
    """Pods that start anew would refuse the same, as often as restarts are allowed."""
    launched = Launch(cluster)
    start_pods(cluster)
    refusal = {"kind": "DataError", "arguments": ["data", 3, "something else", "mend it"]}
    cluster.write("pod-0-0", json.dumps({"turbosparse": "refusal", "values": refusal}))
    with pytest.raises(DataError, match=r"data: 3\. Expected: something else"):
        launched.result()
    assert NAME not in cluster.objects["jobsets"]


class Cancelled(BaseException):
    """As Prefect's termination signal."""


def interrupted(cluster, monkeypatch):
    """Launches in this thread, and interrupts it once the second step was seen."""

    def on_event(event):
        if event.values["step"] == 2:
            raise Cancelled

    def play():
        start_pods(cluster)
        cluster.write("pod-0-0", step(1), step(2))

    threading.Thread(target=play, daemon=True).start()
    log = []
    started = time.monotonic()
    with pytest.raises(Cancelled):
        open_launcher(placement(cluster)).launch(PROGRAM, on_event, log.append)
    assert time.monotonic() - started < 30
    return log


def test_cancelling_deletes_the_jobset_and_waits_for_its_pods(cluster, monkeypatch):
    cluster.deletion_seconds = 1.0
    interrupted(cluster, monkeypatch)
    assert not cluster.objects["jobsets"] and not cluster.objects["pods"]
    assert cluster.bodies == [
        {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
    ]


def flow_pod(cluster, monkeypatch, **metadata):
    monkeypatch.setenv("POD_NAME", "flow-pod")
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "flow-job",
        "uid": "job-uid",
        "controller": True,
    }
    pod = {"name": "flow-pod", "labels": {}, "ownerReferences": [owner], **metadata}
    cluster.put("pods", {"metadata": pod, "status": {"phase": "Running"}})
    cluster.put("jobs", {"metadata": {"name": "flow-job", "uid": "job-uid"}})


def test_an_evicted_flow_leaves_its_training_to_the_next_pod(cluster, monkeypatch):
    """Both ways the flow gets SIGTERM; only its Job tells an eviction from a cancellation."""
    flow_pod(cluster, monkeypatch, deletionTimestamp="2026-01-01T00:00:00Z")
    assert "goes on" in interrupted(cluster, monkeypatch)[-1]
    (owner,) = cluster.objects["jobsets"][NAME]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Job", "job-uid")
    successor = Launch(cluster)
    eventually(lambda: f"joined JobSet {NAME}, which was running" in successor.log)
    cluster.write("pod-0-0", step(3))
    cluster.end_pod("pod-0-0", 0)
    cluster.end_jobset(NAME, "Completed")
    assert successor.result() == [1, 2, 3], "the log from its beginning"


def test_a_flow_whose_job_is_deleted_ends_its_training(cluster, monkeypatch):
    flow_pod(cluster, monkeypatch, deletionTimestamp="2026-01-01T00:00:00Z")
    cluster.objects["jobs"]["flow-job"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    interrupted(cluster, monkeypatch)
    assert NAME not in cluster.objects["jobsets"]


def test_sigterm_to_a_flow_ends_its_training(cluster, monkeypatch):
    """A signal's exception, whatever call it comes in, must not leave pods running."""

    def on_sigterm(number, frame):
        raise Cancelled

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:

        def play():
            start_pods(cluster)
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=play, daemon=True).start()
        with pytest.raises(Cancelled):
            open_launcher(placement(cluster)).launch(PROGRAM, lambda event: None, lambda line: None)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert not cluster.objects["jobsets"]
