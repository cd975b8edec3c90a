"""Commands to be killed: each process of theirs carries a mark by which it is found, even as an orphan."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from turbosparse.artifacts import Store

TURBOSPARSE = str(Path(sys.executable).with_name("turbosparse"))
MARK = "TURBOSPARSE_TEST_MARK"
SHARED_MEMORY = Path("/dev/shm")
CACHES = ("torchinductor_", "turbosparse-cache-")
"""Temporary files that are meant for the next process: torch's compiled code, and remote artifacts."""
SECONDS_TO_HAPPEN = 600.0
SECONDS_TO_END = 900.0
SECONDS_TO_BE_GONE = 60.0
SECONDS_BETWEEN_LOOKS = 0.003
VICTIMS = {
    "agent": "turbosparse.train.launch.agent",
    "rank": "turbosparse.train.launch.rank",
    "worker": "spawn_main",
}


TIMED = {
    "prepare/index.json",
    *(f"{kind}/{name}" for kind in ("pretrain", "finetune") for name in ("history.jsonl", "history.png")),
    "export/model/README.md",
}
"""Files that hold timings, and the corpus's index, which names attempts."""


class EndedTooSoon(AssertionError):
    """The command was done before the moment to kill it came."""


def shared_memory() -> set[str]:
    """Returns the names of this machine's shared memory segments."""
    return {path.name for path in SHARED_MEMORY.iterdir()}


@dataclass
class Bench:
    """A root, a folder for temporary files, and the commands that work there one after the other."""

    folder: Path
    root: Path | None = None
    """The artifact root; None: a folder of its own."""
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    _earlier: set[str] = field(default_factory=shared_memory)

    def __post_init__(self) -> None:
        self.temporary.mkdir(parents=True)
        self.root = self.root or self.folder / "runs"

    @property
    def temporary(self) -> Path:
        """The commands' TMPDIR."""
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        """What all commands said."""
        return self.folder / "log"

    @property
    def is_running(self) -> bool:
        """Whether a command is under way."""
        return self.process is not None and self.process.poll() is None

    def start(self, *words: str) -> None:
        """Starts a command."""
        environment = os.environ | {MARK: self.mark, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [TURBOSPARSE, *words], env=environment, stdout=log, stderr=log, cwd=self.folder
            )

    def wait_for(self, happens: Callable[[], bool]) -> None:
        """Waits until something happens while the command runs.

        Raises:
            EndedTooSoon: The command ended before.
        """
        deadline = time.monotonic() + SECONDS_TO_HAPPEN
        while not happens():
            if not self.is_running:
                raise EndedTooSoon(f"status {self.process.returncode}: {self.said()}")
            assert time.monotonic() < deadline, f"it never happened: {self.said()}"
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def kill(self, victim: str) -> None:
        """Kills the command itself, or the first of its processes of a kind."""
        if victim == "command":
            self.process.kill()
            self.process.wait()
            return
        found = [one for one in marked(self.mark) if VICTIMS[victim] in " ".join(_words(one))]
        assert found, f"no {victim} is running: {self.said()}"
        found[0].send_signal(signal.SIGKILL)

    def finish(self) -> int:
        """Returns the command's exit status once it has ended."""
        return self.process.wait(SECONDS_TO_END)

    def end(self) -> None:
        """Ends whatever still runs."""
        if self.is_running:
            self.kill("command")
            self.check_nothing_runs()

    def said(self) -> str:
        """The end of what the commands said."""
        return self.log.read_text(errors="replace")[-3000:]

    def has_said(self, words: str) -> bool:
        """Whether the commands have said so, wherever their lines were broken."""
        return words in " ".join(self.log.read_text(errors="replace").split())

    def check_nothing_runs(self) -> None:
        """Waits until no process of the commands is left."""
        _, alive = psutil.wait_procs(list(marked(self.mark)), timeout=SECONDS_TO_BE_GONE)
        assert not alive, f"orphans: {[_words(process) for process in alive]}"

    def check_nothing_is_half_visible(self) -> None:
        """Reads every committed artifact: manifests and digests."""
        store = Store(str(self.root))
        for manifest in store.manifests():
            store.load(manifest.name).folder()

    def check_nothing_is_left(self) -> None:
        """Looks for processes, shared memory, locks that are held, temporary files, attempts and state."""
        self.check_nothing_runs()
        used = {segment for process in psutil.process_iter() for segment in _mapped(process)}
        segments = shared_memory() - self._earlier - used
        assert not segments, f"shared memory: {sorted(segments)}"
        held = [lock for lock in self.root.rglob(".lock") if not _is_free(lock)]
        assert not held, f"locks: {held}"
        left = [path for path in self.temporary.iterdir() if not path.name.startswith(CACHES)]
        assert not left, f"temporary files: {left}"
        assert Store(str(self.root)).remove_unfinished(with_state=True) == []
        hidden = [path for path in self.folder.glob(".*") if path.name != ".prefect"]
        assert not hidden, f"drafts: {hidden}"


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yields the living processes with the mark in their environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def digests(store: Store, flow: str) -> dict[str, str]:
    """Returns the sha256 of every file that a flow has committed, by artifact and file; timings apart."""
    return {
        f"{manifest.name}/{name}": record.sha256
        for manifest in store.manifests()
        for name, record in manifest.files.items()
        if manifest.kind in FLOWS[flow] and f"{manifest.kind}/{name}" not in TIMED
    }


def losses(store: Store, kind: str) -> list[float]:
    """Returns the loss of every step of a training."""
    (manifest,) = (found for found in store.manifests() if found.kind == kind)
    history = store.file(manifest, "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in history]


FLOWS = {
    "prepare": ("documents", "tokenizer", "tokens", "prepare"),
    "convert": ("convert",),
    "pretrain": ("pretrain",),
    "finetune": ("instructions", "finetune"),
    "evaluate": ("evaluate",),
    "export": ("export",),
}
"""What each flow makes."""


@dataclass
class Undisturbed:
    """A root in which nothing is ever killed."""

    bench: Bench
    words: list[str]
    """Options of every flow."""
    _made: set[str] = field(default_factory=set)

    def upto(self, flow: str) -> Store:
        """Returns the store once it has what the flows up to this one make."""
        for name in FLOWS:
            if name not in self._made:
                self.bench.start("run", name, *self.words)
                assert self.bench.finish() == 0, self.bench.said()
                self.bench.check_nothing_is_left()
                self._made.add(name)
            if name == flow:
                break
        return Store(str(self.bench.root))

    def copy_parents(self, flow: str, root: Path) -> None:
        """Copies what a flow needs into another root."""
        flows = list(FLOWS)
        for parent in flows[: flows.index(flow)]:
            for kind in FLOWS[parent]:
                shutil.copytree(self.upto(parent).local_root / kind, root / kind)

    def model_folder(self, kind: str) -> str:
        """Returns the model that a stage has made."""
        store = self.upto(kind)
        (manifest,) = (found for found in store.manifests() if found.kind == kind)
        return str(store.fetch(manifest) / "model")


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _mapped(process: psutil.Process) -> set[str]:
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return set()
    prefix = f"{SHARED_MEMORY}/"
    paths = [line.split(maxsplit=5)[-1] for line in maps.splitlines() if prefix in line]
    return {path.removeprefix(prefix).removesuffix(" (deleted)") for path in paths}


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False
