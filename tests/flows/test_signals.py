"""A library that takes signals when it is imported must not keep them: Prefect cancels by SIGTERM."""

import signal
import subprocess
import sys

import psutil
import pytest

from turbosparse.processes import keeping_signal_handlers


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_given_back_also_where_the_import_fails(handlers, tmp_path, monkeypatch):
    taker = "import signal\nfor number in (15, 2):\n    signal.signal(number, lambda *_: None)\n1 / 0\n"
    (tmp_path / "taker.py").write_text(taker)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError), keeping_signal_handlers():
        __import__("taker")
    sys.modules.pop("taker", None)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


STUBBORN = """
import pathlib, signal, sys, time
from turbosparse.processes import end_with_parent
heard = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: heard.write_text(heard.read_text() + "TERM "))
heard.write_text("")
end_with_parent(1.5)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
command = [sys.executable, "-c", *sys.argv[1:]]
threading.Thread(target=subprocess.run, args=(command,)).start()
time.sleep(60)
"""


def test_a_process_whose_parent_died_hears_of_it_once_and_is_then_killed(tmp_path):
    """The kernel would tell it for each thread of the parent."""
    heard = tmp_path / "heard"
    command = [sys.executable, "-c", PARENT, STUBBORN, str(heard)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    assert not psutil.wait_procs([child], timeout=30)[1]
    assert heard.read_text() == "TERM "
