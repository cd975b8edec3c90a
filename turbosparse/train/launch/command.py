"""The agent's command line: written by the launchers, read by the agent."""

import argparse
import os
import sys
from dataclasses import dataclass

from turbosparse.config import Placement, SupervisionConfig

WORKER = "turbosparse.train.worker"
DEFAULT_LIMITS = SupervisionConfig()


@dataclass(frozen=True)
class AgentOptions:
    """What the agent of one node is told."""

    job_file: str
    """Handed to the worker."""
    worker: str = WORKER
    """Module whose `main` every rank runs."""
    num_ranks: int = 1
    """Ranks on this node."""
    num_nodes: int = 1
    node_rank: int | None = None
    """This node's place among them; none: the pod's place in its Job."""
    rendezvous: str | None = None
    """HOST:PORT on node 0; none: this node alone."""
    supervision: SupervisionConfig = DEFAULT_LIMITS

    @classmethod
    def of(cls, place: Placement, job_file: str, worker: str = WORKER) -> "AgentOptions":
        """Returns what a placement says; the node's place is still to be filled in."""
        return cls(
            job_file,
            worker,
            place.num_ranks,
            place.num_nodes,
            rendezvous=place.rendezvous,
            supervision=place.supervision,
        )

    def command(self, python: str = sys.executable) -> list[str]:
        """Returns the command that starts the agent."""
        values: dict[str, object] = {
            "worker": self.worker,
            "num-ranks": self.num_ranks,
            "num-nodes": self.num_nodes,
            "node-rank": self.node_rank,
            "rendezvous": self.rendezvous,
            **{name.replace("_", "-"): value for name, value in self.supervision},
        }
        options = [f"--{name}={value}" for name, value in values.items() if value is not None]
        return [python, "-m", "turbosparse.train.launch.agent", *options, self.job_file]


def parse_options(arguments: list[str]) -> AgentOptions:
    """Reads what `AgentOptions.command` wrote."""
    parser = argparse.ArgumentParser("turbosparse.train.launch.agent", description="The ranks of one node.")
    parser.add_argument("job_file", help="handed to the worker")
    parser.add_argument("--worker", default=WORKER, help="module whose main() every rank runs")
    parser.add_argument("--num-ranks", type=int, default=1, help="ranks on this node")
    parser.add_argument("--num-nodes", type=int, default=1, help="nodes that train together")
    # Kubernetes tells each pod of an Indexed Job which it is.
    place = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    parser.add_argument("--node-rank", type=int, default=place, help="this node's place among them")
    parser.add_argument("--rendezvous", help="HOST:PORT on node 0")
    for name, field in SupervisionConfig.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=field.default, help=field.description
        )
    values = vars(parser.parse_args(arguments))
    limits = SupervisionConfig(**{name: values.pop(name) for name in SupervisionConfig.model_fields})
    return AgentOptions(**values, supervision=limits)
