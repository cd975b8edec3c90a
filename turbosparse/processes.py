"""Processes that end with those who started them."""

import contextlib
import ctypes
import os
import sys

import psutil

PR_SET_PDEATHSIG = 1
SECONDS_TO_END = 10.0


def die_with_parent(signal_number: int, parent: int | None = None) -> None:
    """Asks Linux to signal this process when its parent dies, be it by SIGKILL.

    Args:
        signal_number: the signal.
        parent: the parent's process id, where this process has run for long before it asks.
    """
    if sys.platform != "linux":
        return
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def end_tree(pid: int) -> None:
    """Ends a process and all its descendants: SIGTERM, a short wait, SIGKILL.

    torchrun puts every rank into a session of its own: signalling a process group misses them.
    """
    try:
        root = psutil.Process(pid)
        processes = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=SECONDS_TO_END)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=SECONDS_TO_END)
