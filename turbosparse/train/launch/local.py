"""The `local` launcher: an agent as a subprocess of this one, all of whose ranks end with it."""

import shlex
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue

from turbosparse.config import Placement
from turbosparse.errors import ConfigError
from turbosparse.processes import end_tree
from turbosparse.train.launch.command import AgentOptions
from turbosparse.train.launch.outcome import OnEvent, OnLog, Transcript
from turbosparse.train.launch.program import Program

# After the ranks' grace: the agent has to notice, kill, and clean up.
SECONDS_TO_CLEAN_UP = 6.0
SECONDS_BETWEEN_LOOKS = 1.0


class LocalLauncher:
    """Trains on this machine, and with others that run the command which it logs.

    Raises:
        ConfigError: Several nodes, and no rendezvous.
    """

    def __init__(self, place: Placement) -> None:
        if place.num_nodes > 1 and place.rendezvous is None:
            raise ConfigError(
                "placement.rendezvous",
                None,
                f"HOST:PORT of this machine, where {place.num_nodes} nodes meet",
                "give one that the other nodes can reach, or num_nodes=1",
            )
        self._place = place

    def launch(self, program: Program, on_event: OnEvent, on_log: OnLog) -> None:
        """Runs a program to its end, one process per rank; see Launcher."""
        folder = Path(program.folder)
        folder.mkdir(parents=True, exist_ok=True)
        job_file = folder / "job.json"
        job_file.write_text(program.job, encoding="utf-8")
        options = replace(AgentOptions.of(self._place, str(job_file), program.worker), node_rank=0)
        for node in range(1, options.num_nodes):
            command = replace(options, node_rank=node).command("python")
            on_log(f"node {node} joins by: {shlex.join(command)}")
        self._run(options.command(), Transcript(on_event, on_log))

    def _run(self, command: list[str], transcript: Transcript) -> None:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            _forward(process, transcript)
            if process.wait() != 0:
                raise transcript.error(process.returncode)
        finally:
            end_tree(process.pid, self._place.supervision.preemption_grace_seconds + SECONDS_TO_CLEAN_UP)
            process.wait()


def _forward(process: subprocess.Popen[str], transcript: Transcript) -> None:
    """Passes lines on until the process has ended.

    A thread reads the pipe: ranks that are told to stop go on writing while nobody here listens.
    """
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_read, args=(process, lines), name="output", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
        except Empty:
            # A killed agent's orphans may hold the pipe open.
            line = None if process.poll() is not None else ""
        if line is None:
            return
        transcript.read(line)


def _read(process: subprocess.Popen[str], lines: "Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
