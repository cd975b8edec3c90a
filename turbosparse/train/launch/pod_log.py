"""Rank 0's log in a cluster, read across broken connections and restarted pods."""

from collections.abc import Iterator
from typing import Any

from turbosparse.train.launch.cluster import PODS, Cluster
from turbosparse.train.launch.manifest import NAME_LABEL

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
ATTEMPT_LABEL = "jobset.sigs.k8s.io/restart-attempt"
IDLE_SECONDS = 10.0


class PodLog:
    """The lines of rank 0, each exactly once, whichever pod it is in."""

    def __init__(self, cluster: Cluster, jobset: str) -> None:
        self._cluster = cluster
        self._selector = f"{NAME_LABEL}={jobset},{INDEX_LABEL}=0"
        self._pod: str | None = None
        self._since: str | None = None
        self._num_at_since = 0

    def lines(self) -> Iterator[str]:
        """Gives further lines until there is a pause, or no pod that writes."""
        pod = self._writing_pod()
        if pod is None:
            return
        if pod != self._pod:
            self._pod, self._since, self._num_at_since = pod, None, 0
        # The API cuts `sinceTime` to whole seconds: these lines are known.
        since, num_known = self._since, self._num_at_since
        for line in self._cluster.follow_log(pod, since, IDLE_SECONDS):
            stamp, _, text = line.partition(" ")
            if since is not None and _moment(stamp) < _moment(since):
                continue
            if stamp == since and num_known > 0:
                num_known -= 1
                continue
            self._num_at_since = self._num_at_since + 1 if stamp == self._since else 1
            self._since = stamp
            yield text

    def _writing_pod(self) -> str | None:
        pods = [pod for pod in self._cluster.find(PODS, self._selector) if _has_log(pod)]
        return max(pods, key=_age)["metadata"]["name"] if pods else None


def _has_log(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Running", "Succeeded", "Failed")


def _age(pod: dict[str, Any]) -> tuple[int, str]:
    metadata = pod["metadata"]
    return int(metadata["labels"].get(ATTEMPT_LABEL, "0")), metadata.get("creationTimestamp", "")


def _moment(stamp: str) -> tuple[str, str]:
    """Returns a time in a form that compares, however many digits its fraction has."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")
