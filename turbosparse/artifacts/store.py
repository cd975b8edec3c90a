"""The artifact store: makes and commits content-addressed folders, and removes what nobody committed."""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from filelock import FileLock, Timeout

import turbosparse
from turbosparse.artifacts.attempts import Workspace, attempt_name, remove_stale_attempts
from turbosparse.artifacts.files import record_files, temporary_home
from turbosparse.artifacts.manifest import ArtifactSpec, Manifest
from turbosparse.artifacts.reading import MANIFEST, Artifact, StoreReader
from turbosparse.errors import ArtifactError

DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Full, over a quota, or mounted read-only: nothing that this program could try again."""
SECONDS_TO_ANSWER = 10.0
"""A root that does not answer for this long when a run starts is refused."""
RECENT = timedelta(days=1)
"""What was written to within this time may still be being made on another machine."""


Build = Callable[[Workspace], dict[str, Any]]


@dataclass
class Store(StoreReader):
    """A store that artifacts are made in, once each, and cleaned up in."""

    @classmethod
    def at(cls, reader: StoreReader) -> "Store":
        """Returns the store that a reader reads, with the same patience and cache."""
        return cls(reader.root, reader.patience_seconds, reader.cache_gib)

    def check_writable(self) -> None:
        """Writes a file below the root and deletes it.

        Raises:
            ArtifactError: Nothing can be written there.
        """
        probe = f".{attempt_name()}"
        place = replace(self._place, patience_seconds=SECONDS_TO_ANSWER)
        try:
            place.write_bytes(probe, b"")
            place.remove(probe)
        except (OSError, ArtifactError) as error:
            expected, remedy = "a place that can be written", f"give another --root ({error})"
            raise ArtifactError("root", self.root, expected, remedy) from error

    def produce(self, spec: ArtifactSpec, build: Build) -> Artifact:
        """Returns the artifact of `spec`: the committed one, else the one that `build` makes now.

        `build` fills the workspace's folder and returns the metrics. Two callers at once make it
        once on one machine (a file lock), and commit it once anywhere (a conditional write).
        """
        with self._exclusive(spec):
            found = self.find(spec)
            return found or self._make(spec, build)

    def remove_unfinished(self, with_state: bool = False) -> list[str]:
        """Deletes attempts that no manifest commits, and state of runs that have ended.

        What a stage on this machine is writing just now stays. On an object store, where no lock
        says so, that is whatever was written to within the last day.

        Args:
            with_state: Deletes the state of unended runs too: the checkpoints that they would resume from.

        Returns:
            What was deleted, by name below the root.
        """
        removed = []
        for name in self._names():
            committed = self._read_manifest(name).attempt if self._place.exists(name, MANIFEST) else None
            for last in self._place.children(name):
                is_state = last.startswith("state") and (with_state or committed is not None)
                is_left_over = is_state or (last.startswith("attempt-") and last != committed)
                if is_left_over and not self._is_being_made(name, last):
                    self._place.remove(name, last)
                    removed.append(f"{name}/{last}")
        return removed

    def _make(self, spec: ArtifactSpec, build: Build) -> Artifact:
        started = time.monotonic()
        with self._attempt(spec) as (attempt, workspace):
            metrics = build(workspace)
            files = record_files(workspace.folder)
            assert files, f"{spec.name} was built without a file"
            if self.local_root is None:
                self._place.below(spec.name, attempt).upload(workspace.folder, files)
            manifest = Manifest(
                kind=spec.kind,
                identity=spec.identity,
                version=spec.version,
                config=spec.config,
                parents=spec.parent_names,
                inputs=spec.inputs,
                code_version=turbosparse.__version__,
                created_at=datetime.now(UTC).isoformat(),
                attempt=attempt,
                seconds=round(time.monotonic() - started, 3),
                components=tuple(workspace.components),
                files=files,
                metrics=metrics,
            )
            return self._commit(manifest, workspace)

    def _commit(self, manifest: Manifest, workspace: Workspace) -> Artifact:
        content = manifest.model_dump_json(indent=2).encode()
        is_ours = self._place.create(f"{manifest.name}/{MANIFEST}", content)
        shutil.rmtree(workspace.state, ignore_errors=True)
        self._place.remove(manifest.name, "state")
        if is_ours:
            return Artifact(self, manifest)
        # Another machine committed first: its artifact is the artifact, ours is discarded.
        self._place.remove(manifest.name, manifest.attempt)
        return replace(self.load(manifest.name), reused=True)

    @contextmanager
    def _attempt(self, spec: ArtifactSpec) -> Iterator[tuple[str, Workspace]]:
        attempt = attempt_name()
        if self.local_root is not None:
            home = self.local_root / spec.name
            remove_stale_attempts(home)
        else:
            home = temporary_home("turbosparse") / spec.name
        state_uri = f"{self.place(spec.kind)}/{spec.identity}/state"
        workspace = Workspace(home / attempt, home / "state", state_uri)
        workspace.folder.mkdir(parents=True)
        workspace.state.mkdir(parents=True, exist_ok=True)
        try:
            yield attempt, workspace
        except BaseException as error:
            self._discard(spec.name, attempt)
            if isinstance(error, OSError) and error.errno in DISK_REFUSES:
                raise self._disk_refuses(spec, error) from error
            raise
        finally:
            if self.local_root is None:
                shutil.rmtree(workspace.folder, ignore_errors=True)

    def _disk_refuses(self, spec: ArtifactSpec, error: OSError) -> ArtifactError:
        remedy = "free space or give another --root, and run again: what was finished is kept"
        return ArtifactError("root", self.root, f"a disk that takes {spec.name} ({error.strerror})", remedy)

    def _discard(self, name: str, attempt: str) -> None:
        """Deletes a failed attempt, if storage lets us at once; else `remove_unfinished` does it."""
        with suppress(ArtifactError):
            replace(self._place, patience_seconds=0).remove(name, attempt)

    @contextmanager
    def _exclusive(self, spec: ArtifactSpec) -> Iterator[None]:
        if self.local_root is None:
            yield
            return
        home = self.local_root / spec.name
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            yield

    def _is_being_made(self, name: str, part: str) -> bool:
        if self.local_root is None:
            written = self._place.last_written(name, part)
            return written is not None and datetime.now(UTC) - written < RECENT
        try:
            with FileLock(self.local_root / name / ".lock", timeout=0):
                return False
        except Timeout:
            return True
