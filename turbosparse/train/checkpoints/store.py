"""Checkpoints of one training run: saved by all ranks, visible once whole, loaded by any number of ranks.

Layout: `<uri>/step-00000123/checkpoint.json` beside the folder of the attempt that it commits.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner

from turbosparse.artifacts.attempts import attempt_name
from turbosparse.artifacts.files import record_bytes
from turbosparse.artifacts.place import PATIENCE_SECONDS, Place
from turbosparse.errors import ArtifactError, ConfigError
from turbosparse.train.checkpoints.checkpoint import Checkpoint
from turbosparse.train.checkpoints.manifest import MANIFEST, CheckpointManifest, TensorRecord
from turbosparse.train.checkpoints.ranks import Ranks
from turbosparse.train.checkpoints.reader import ShardReader, check_fits
from turbosparse.train.checkpoints.writer import Commit, ShardWriter

_STEP = re.compile(r"step-(\d{8,})")


class CheckpointStore:
    """The checkpoints below a URI. Every method is collective: all ranks call it, all raise what one raises.

    Opened after torch.distributed is initialised, by every rank; without it there is one rank. One run
    at a time writes below a URI: its first save deletes what an earlier one left unfinished.

    Args:
        uri: A folder or an fsspec URI, such as s3://bucket/prefix.
        identity: The artifact whose training this is.
        keep_last: Checkpoints that are kept; older ones are deleted once a newer one is whole.
        keep_every_steps: Checkpoints of these steps' multiples are kept beside them, for good.
        patience_seconds: How long an outage of the storage, or a full disk, is waited out.

    Raises:
        ArtifactError: Storage does not answer, is full, or refuses us.
    """

    def __init__(
        self,
        uri: str,
        identity: str,
        keep_last: int = 2,
        keep_every_steps: int | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        assert keep_last > 0
        self._place = Place.open(uri, patience_seconds)
        self._identity = identity
        self._keep_last = keep_last
        self._keep_every_steps = keep_every_steps
        self._ranks = Ranks()
        self._attempt = self._ranks.on_first(attempt_name)
        self._has_saved = False

    def save(
        self, step: int, tensors: dict[str, Tensor], record: dict[str, Any], files: dict[str, bytes]
    ) -> None:
        """Writes a checkpoint, then deletes those that are not to be kept. One that is there stays as it is.

        Args:
            step: Optimizer steps that are done.
            tensors: Plain tensors, equal on all ranks and written once; DTensors, each rank its shard.
            record: JSON-able, rank 0's.
            files: Small files to lie beside the tensors, rank 0's.

        Raises:
            ArtifactError: A rank could not write. Earlier checkpoints stay, nothing is left of this one.
        """
        is_due = self._ranks.on_first(lambda: self._begin(step))
        self._has_saved = True
        if not is_due:
            return

        def commit(stored: dict[str, TensorRecord], shard_bytes: dict[str, int]) -> None:
            self._commit(step, stored, shard_bytes, record, files)

        try:
            self._write(step, tensors, commit)
        except Exception:
            self._discard(step)
            raise
        self._ranks.on_first(self._remove_old)

    def latest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint, its files' sizes checked (their digests: when it is loaded).

        Raises:
            ConfigError: It is of another identity.
            ArtifactError: A manifest is unreadable.
        """
        return self._ranks.on_first(self._latest)

    def load(self, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
        """Fills `tensors` in place, each rank reading the chunks that overlap its shards.

        The number of ranks and the sharding may differ from those that wrote; names, shapes and
        dtypes may not. Tensors that are not asked for are not read.

        Raises:
            ModelError: A tensor is missing or of another shape or dtype; nothing is filled then.
            ArtifactError: A file is missing or corrupt; the message names it.
        """
        check_fits(checkpoint, tensors)
        with _as_one_error():
            dcp.load(
                dict(tensors),
                storage_reader=ShardReader(checkpoint),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._ranks.group,
                no_dist=not self._ranks.are_many,
            )

    def _step_place(self, step: int) -> Place:
        return self._place.below(f"step-{step:08d}")

    def _steps(self) -> list[int]:
        """Returns the steps of all folders, whole or not, ascending."""
        found = (_STEP.fullmatch(name) for name in self._place.children())
        return sorted(int(match[1]) for match in found if match)

    def _committed_steps(self) -> list[int]:
        return [step for step in self._steps() if self._step_place(step).exists(MANIFEST)]

    def _remove_unfinished(self) -> None:
        self._place.abort_uploads()
        for step in set(self._steps()) - set(self._committed_steps()):
            self._step_place(step).remove()

    def _begin(self, step: int) -> bool:
        """Returns whether the step is to be written; what is not whole there is deleted."""
        if not self._has_saved:
            self._remove_unfinished()
        place = self._step_place(step)
        if place.exists(MANIFEST):
            if self._is_whole(self._read(step)):
                return False
            self._remove(step)
        return True

    def _write(self, step: int, tensors: dict[str, Tensor], commit: Commit) -> None:
        writer = ShardWriter(self._step_place(step).below(self._attempt), self._ranks.rank, commit)
        with _as_one_error():
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._ranks.group,
                no_dist=not self._ranks.are_many,
            )

    def _commit(
        self,
        step: int,
        tensors: dict[str, TensorRecord],
        shard_bytes: dict[str, int],
        record: dict[str, Any],
        files: dict[str, bytes],
    ) -> None:
        place = self._step_place(step)
        for name, content in files.items():
            place.write_bytes(f"{self._attempt}/{name}", content)
        manifest = CheckpointManifest(
            identity=self._identity,
            step=step,
            num_ranks=self._ranks.number,
            created_at=datetime.now(UTC).isoformat(),
            attempt=self._attempt,
            record=record,
            files={name: record_bytes(content) for name, content in files.items()},
            shard_bytes=shard_bytes,
            tensors=tensors,
        )
        if not self._is_whole(Checkpoint(place, manifest)):
            remedy = "let one run at a time write here, and run again"
            raise ArtifactError("checkpoint", place.uri, "the files that were just written", remedy)
        if not place.create(MANIFEST, manifest.model_dump_json().encode()):
            place.remove(self._attempt)  # another run has committed this step

    def _discard(self, step: int) -> None:
        """Deletes what a failed attempt left, if storage lets us at once; else a later run's save does."""
        if self._ranks.rank != 0:
            return
        place = replace(self._step_place(step), patience_seconds=0)
        with suppress(ArtifactError):
            # Another run may have committed this step: its files are not ours to delete.
            place.remove(*((self._attempt,) if place.exists(MANIFEST) else ()))

    def _latest(self) -> Checkpoint | None:
        for step in reversed(self._committed_steps()):
            checkpoint = self._read(step)
            if self._is_whole(checkpoint):
                return checkpoint
        return None

    def _read(self, step: int) -> Checkpoint:
        place = self._step_place(step)
        try:
            manifest = CheckpointManifest.model_validate_json(place.read(MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            remedy = f"delete {place.uri} and run again"
            raise ArtifactError(
                place.path(MANIFEST), first["loc"], f"a manifest ({first['msg']})", remedy
            ) from error
        if manifest.identity != self._identity:
            expected = f"checkpoints of {self._identity} below {self._place.uri}"
            remedy = "resume with the configuration that wrote them, or give another root"
            raise ConfigError("identity", manifest.identity, expected, remedy)
        return Checkpoint(place, manifest)

    def _is_whole(self, checkpoint: Checkpoint) -> bool:
        found = checkpoint.place.sizes(checkpoint.manifest.attempt)
        return all(found.get(path) == size for path, size in checkpoint.manifest.file_sizes().items())

    def _remove_old(self) -> None:
        steps = self._committed_steps()
        for step in steps[: -self._keep_last]:
            if self._keep_every_steps is None or step % self._keep_every_steps:
                self._remove(step)

    def _remove(self, step: int) -> None:
        # The manifest first: a checkpoint that is half deleted is none.
        self._step_place(step).remove(MANIFEST)
        self._step_place(step).remove()


@contextmanager
def _as_one_error() -> Iterator[None]:
    """Raises the first rank's own error, not torch's collection of all of them."""
    with warnings.catch_warnings():
        # One process is what we ask for where torch.distributed is not initialised.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as failure:
            rank, (error, _) = min(failure.failures.items())
            error.add_note(f"on rank {rank} of {len(failure.failures)} that failed")
            raise error from failure
