"""Processes that end with those who started them.

`python -m turbosparse.processes PARENT COMMAND…` becomes a command that ends with its parent.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SECONDS_TO_BE_KILLED = 10.0
SECONDS_BETWEEN_LOOKS = 0.5


def die_with_parent(signal_number: int, parent: int | None = None) -> None:
    """Asks Linux to signal this process when its parent dies, be it by SIGKILL.

    Args:
        signal_number: the signal.
        parent: the parent's process id, where it may have died before this process could ask.
    """
    if sys.platform != "linux":
        return
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def end_with_parent(patience_seconds: float) -> None:
    """Ends this process by one SIGTERM when its parent dies, and by SIGKILL if it then takes too long.

    The kernel would send a SIGTERM for each dying thread of the parent, and what ends in order at the first
    is cut short by the second. And a flow run that ends tells its server of it, which may be gone as well,
    for minutes.

    Args:
        patience_seconds: what it has to write a checkpoint and to end its own processes.
    """
    threading.Thread(
        target=_end_after, args=(os.getppid(), patience_seconds), name="end-with-parent", daemon=True
    ).start()


def _end_after(parent: int, patience_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience_seconds)
    kill_each(descendants())
    os.kill(os.getpid(), signal.SIGKILL)


def bound_to_this(command: Sequence[str]) -> list[str]:
    """Returns a command line for a program that knows nothing of it, but is killed when this process dies."""
    return [sys.executable, "-m", "turbosparse.processes", str(os.getpid()), *command]


@contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """Gives SIGTERM and SIGINT back to who had them before the block.

    Composer takes both when it is imported: Prefect would learn of a cancellation as of a crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def adopt_orphans() -> None:
    """Asks Linux to make this process the parent of descendants whose parent died.

    A killed rank's own children (loaders, uploaders) can then still be found and ended.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> list[psutil.Process]:
    """Returns this process's children and theirs."""
    return psutil.Process().children(recursive=True)


def signal_each(processes: Iterable[psutil.Process], signal_number: int) -> None:
    """Sends a signal to those of the processes that still live."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)


def kill_each(processes: Iterable[psutil.Process]) -> None:
    """Ends processes by SIGKILL and waits until they are gone."""
    doomed = list(processes)
    signal_each(doomed, signal.SIGKILL)
    psutil.wait_procs(doomed, timeout=SECONDS_TO_BE_KILLED)


def end_tree(pid: int, patience_seconds: float) -> None:
    """Ends a process by SIGTERM, so that it ends its own; SIGKILLs all that is left after a while.

    torchrun puts every rank into a session of its own: signalling a process group misses them.
    """
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    signal_each([root], signal.SIGTERM)
    try:
        psutil.wait_procs([root], timeout=patience_seconds)
    finally:
        # Also when a second Ctrl-C cuts the wait short.
        with contextlib.suppress(psutil.NoSuchProcess):
            tree += root.children(recursive=True)
        kill_each(tree)


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL, int(sys.argv[1]))
    # What was asked of the kernel outlives exec.
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - a list of arguments, no shell
