"""Training over two nodes, here two agents on loopback, each with one rank."""

import shlex
import socket
import subprocess
import sys

import pytest

from turbosparse.config import Placement
from turbosparse.train.history import read_history
from turbosparse.train.launch import Program, open_launcher

# Streaming's shared memory has names that are one machine's: the second node has a /dev/shm of its own.
OTHER_MACHINE = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh"]


@pytest.mark.long
def test_two_nodes_train_as_one(train, job):
    """The command that node 0 logs is all that node 1 needs."""
    if subprocess.run([*OTHER_MACHINE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs leave to mount a /dev/shm for the second node")
    expected = train(job("one"))
    two = job("two", num_ranks=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    others = []

    def join(line: str) -> None:
        if line.startswith("node 1 joins by: "):
            _, *command = shlex.split(line.removeprefix("node 1 joins by: "))
            others.append(subprocess.Popen([*OTHER_MACHINE, sys.executable, *command]))

    place = Placement(num_nodes=2, rendezvous=f"127.0.0.1:{port}")
    program = Program(two.name, two.identity, two.model_dump_json(), two.state_folder)
    open_launcher(place).launch(program, lambda event: None, join)
    assert [other.wait(60) for other in others] == [0]
    assert [record.loss for record in read_history(two.history_path)] == pytest.approx(expected, rel=1e-4)
