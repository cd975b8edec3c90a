"""The `jobset` launcher: training in pods of their own, found again by whoever asks for the same training."""

import os
import time
from typing import Any

from turbosparse.config import JobSetConfig, Placement
from turbosparse.errors import ConfigError, TrainingError
from turbosparse.train.launch.cluster import CONFIG_MAPS, JOBS, JOBSETS, PODS, Cluster
from turbosparse.train.launch.manifest import (
    API_VERSION,
    DIGEST_ANNOTATION,
    NAME_LABEL,
    Owner,
    build_jobset,
    digest_of,
    job_config_map,
    name_of,
)
from turbosparse.train.launch.outcome import NUM_LINES_KEPT, OnEvent, OnLog, Transcript
from turbosparse.train.launch.pod_log import PodLog
from turbosparse.train.launch.program import Program

POD_NAME = "POD_NAME"
SECONDS_BETWEEN_LOOKS = 2
SECONDS_TO_DELETE = 12.0

Object = dict[str, Any]


class JobSetLauncher:
    """Makes a JobSet, or joins the one that an earlier pod of the same flow made."""

    def __init__(self, place: Placement, config: JobSetConfig) -> None:
        self._place = place
        self._config = config

    def launch(self, program: Program, on_event: OnEvent, on_log: OnLog) -> None:
        """Runs a program to its end, one pod per node; see Launcher."""
        name = name_of(program)
        with Cluster(self._config.namespace, self._config.api_url) as cluster:
            self._make_or_join(cluster, program, on_log)
            try:
                self._follow(cluster, name, Transcript(on_event, on_log))
            except BaseException:
                self._end(name, on_log)
                raise

    def _make_or_join(self, cluster: Cluster, program: Program, on_log: OnLog) -> None:
        name = name_of(program)
        manifest = build_jobset(program, self._place, self._config, _flow_job(cluster))
        self._remove_ended(cluster, name)
        made = jobset = cluster.create(JOBSETS, manifest)
        if jobset is None:
            jobset = cluster.get(JOBSETS, name)
            if jobset is None:
                raise TrainingError(f"JobSet {name} was deleted while this run was to join it")
            _check_same(jobset, program)
            on_log(f"joined JobSet {name}, which was running")
        owner = Owner(API_VERSION, "JobSet", name, jobset["metadata"]["uid"])
        try:
            # Pods wait for it. Named after its content: where there is one, it is this one.
            cluster.create(CONFIG_MAPS, job_config_map(program, owner))
        except BaseException:
            if made is not None:
                self._end(name, on_log)
            raise

    def _remove_ended(self, cluster: Cluster, name: str) -> None:
        jobset = cluster.get(JOBSETS, name)
        if jobset is not None and (_condition(jobset) or "deletionTimestamp" in jobset["metadata"]):
            self._delete(cluster, name)

    def _follow(self, cluster: Cluster, name: str, transcript: Transcript) -> None:
        log, state = PodLog(cluster, name), ""
        while True:
            jobset = cluster.get(JOBSETS, name)
            if jobset is None:
                raise TrainingError(f"JobSet {name} was deleted by somebody else")
            if state != (state := _state(jobset)):
                transcript.read(f"JobSet {name} {state}")
            # Asked before the log is read: what was written before the end is read after it is known.
            condition = _condition(jobset)
            is_quiet = True
            for line in log.lines():
                is_quiet = False
                transcript.read(line)
            if transcript.is_refused:
                # Pods that start anew would refuse the same.
                raise transcript.error(None)
            if condition == "Completed":
                return
            if condition == "Failed":
                raise _failure(cluster, jobset, transcript)
            if is_quiet:
                cluster.wait_for_change(JOBSETS, jobset, SECONDS_BETWEEN_LOOKS)

    def _end(self, name: str, on_log: OnLog) -> None:
        # Whoever cancels does not wait ten minutes for an API that is away.
        with Cluster(self._config.namespace, self._config.api_url, SECONDS_TO_DELETE) as cluster:
            jobset = cluster.get(JOBSETS, name)
            if jobset is None or _condition(jobset):
                return
            if _is_evicted(cluster):
                on_log(f"JobSet {name} goes on: this pod is evicted, and the next one joins it")
                return
            self._delete(cluster, name)

    def _delete(self, cluster: Cluster, name: str) -> None:
        cluster.delete(JOBSETS, name)
        patience = self._place.supervision.preemption_grace_seconds + SECONDS_TO_DELETE
        deadline = time.monotonic() + patience
        while cluster.get(JOBSETS, name) is not None:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"JobSet {name} was deleted, and its pods still run after {patience:.0f} s"
                )
            time.sleep(0.2)


def _flow_job(cluster: Cluster) -> Owner | None:
    """Returns the Job that runs the flow, if this is a pod of one."""
    pod = _own_pod(cluster)
    for owner in pod["metadata"].get("ownerReferences", []) if pod else []:
        if owner["kind"] == "Job":
            return Owner(owner["apiVersion"], "Job", owner["name"], owner["uid"])
    return None


def _is_evicted(cluster: Cluster) -> bool:
    """Says whether this pod is taken away while its Job lives on; a cancelled flow's Job does not."""
    pod, owner = _own_pod(cluster), _flow_job(cluster)
    if pod is None or owner is None or "deletionTimestamp" not in pod["metadata"]:
        return False
    job = cluster.get(JOBS, owner.name)
    return job is not None and "deletionTimestamp" not in job["metadata"]


def _own_pod(cluster: Cluster) -> Object | None:
    return cluster.get(PODS, os.environ[POD_NAME]) if POD_NAME in os.environ else None


def _check_same(jobset: Object, program: Program) -> None:
    running = jobset["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION)
    if running != digest_of(program):
        raise ConfigError(
            "placement.jobset",
            jobset["metadata"]["name"],
            "a JobSet of this name that runs the same job file",
            "it runs with other settings: wait for its end, or delete it",
        )


def _condition(jobset: Object) -> str | None:
    """Returns `Completed` or `Failed`; None: neither yet."""
    conditions = jobset.get("status", {}).get("conditions", [])
    ends = [item["type"] for item in conditions if item["status"] == "True"]
    return next((end for end in ends if end in ("Completed", "Failed")), None)


def _state(jobset: Object) -> str:
    """Returns where a JobSet is, for people."""
    status = jobset.get("status", {})
    if jobset["spec"].get("suspend"):
        return "is queued"
    jobs = status.get("replicatedJobsStatus", [])
    is_ready = any(job.get("ready") or job.get("succeeded") for job in jobs)
    restarts = f", restarted {status['restarts']} times" if status.get("restarts") else ""
    return ("runs" if is_ready else "starts") + restarts


def _failure(cluster: Cluster, jobset: Object, transcript: Transcript) -> Exception:
    """Returns the error of the pod that failed first; the others died of its end."""
    name = jobset["metadata"]["name"]
    pods = [(pod, ended) for pod in cluster.find(PODS, f"{NAME_LABEL}={name}") if (ended := _terminated(pod))]
    if not pods:
        message = next(c.get("message", "") for c in jobset["status"]["conditions"] if c["type"] == "Failed")
        transcript.read(f"JobSet {name} failed: {message}")
        return transcript.error(None)
    pod, ended = min(pods, key=lambda pair: str(pair[1].get("finishedAt")))
    failing = Transcript(_pass_over, _pass_over)
    pod_name = pod["metadata"]["name"]
    failing.read(f"pod {pod_name}, {ended.get('reason', 'ended')}")
    for line in cluster.log_end(pod_name, NUM_LINES_KEPT):
        failing.read(line)
    return failing.error(ended["exitCode"])


def _pass_over(said: object) -> None:
    """Heard once already, or of no use after the end."""


def _terminated(pod: Object) -> Object | None:
    """Returns how a pod's container failed; None: it did not."""
    for container in pod["status"].get("containerStatuses", []):
        ended: Object | None = container["state"].get("terminated")
        if ended is not None and ended["exitCode"] != 0:
            return ended
    return None
