"""One retraining of a root at a time, on whichever machines they start.

A lease is a numbered file `.lease/NUMBER.json` below the root: taking it is writing the next number, which
one writer can. Its holder renews it; one that died without a word is passed over once it has
expired. Machines whose clocks differ by more than the lease's length would not respect each other.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError, field_validator

from turbosparse.artifacts.numbered import NumberedFiles
from turbosparse.config.base import Config
from turbosparse.errors import ArtifactError, TurboSparseError

FOLDER = ".lease"
RENEWALS_PER_LEASE = 3

logger = logging.getLogger(__name__)


class RetrainingUnderWay(TurboSparseError):
    """Another retraining of this root runs, or died less than a lease ago."""


class LeaseRecord(Config):
    """Who retrains, and until when that counts."""

    holder: str
    expires_at: str
    """UTC, ISO 8601."""
    released: bool = False
    """Whether its holder has ended."""

    @field_validator("expires_at")
    @classmethod
    def _is_a_moment(cls, text: str) -> str:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("a time with its zone")
        return text

    def is_over(self) -> bool:
        """Returns whether another may take over."""
        return self.released or datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


@dataclass(frozen=True)
class Lease:
    """A lease that was taken."""

    files: NumberedFiles
    number: int
    holder: str
    seconds: float

    def renew(self) -> None:
        """Lets it count for its whole length again."""
        self.files.replace(self.number, _content(self.holder, self.seconds))

    def release(self) -> None:
        """Lets the next one start at once."""
        self.files.replace(self.number, _content(self.holder, 0.0, released=True))

    def check(self) -> None:
        """Does nothing as long as no other holder has taken over.

        Raises:
            RetrainingUnderWay: One has: this run was silent for longer than its lease.
        """
        last = self.files.last()
        if last != self.number:
            raise _under_way(self.files, _read(self.files, last))


def take_lease(root: str, holder: str, seconds: float) -> Lease:
    """Takes the root's lease. The same holder may take it again: it is its own successor.

    Raises:
        RetrainingUnderWay: Somebody else holds it, or took it at the same moment.
    """
    files = NumberedFiles.open(root, FOLDER)
    last = files.last()
    if last:
        record = _read(files, last)
        if not record.is_over() and record.holder != holder:
            raise _under_way(files, record)
    if not files.create(last + 1, _content(holder, seconds)):
        raise _under_way(files, _read(files, last + 1))
    return Lease(files, last + 1, holder, seconds)


def check_free(root: str) -> None:
    """Does nothing unless a retraining of the root holds its lease.

    Raises:
        RetrainingUnderWay: One does.
    """
    files = NumberedFiles.open(root, FOLDER)
    last = files.last()
    if last and not (record := _read(files, last)).is_over():
        raise _under_way(files, record)


@contextmanager
def holding_lease(root: str, holder: str, seconds: float) -> Iterator[Lease]:
    """Holds the root's lease inside the block: renewed by a thread, released at the end.

    Raises:
        RetrainingUnderWay: Somebody else holds it.
    """
    lease, ended = take_lease(root, holder, seconds), threading.Event()
    renewing = threading.Thread(target=_keep_renewing, args=(lease, ended), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        lease.release()


def _keep_renewing(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(lease.seconds / RENEWALS_PER_LEASE):
        try:
            lease.renew()
        except ArtifactError as error:
            # The storage is away: the next renewal may find it. If none does, `check` speaks up.
            logger.warning("the lease could not be renewed: %s", error)


def _content(holder: str, seconds: float, released: bool = False) -> bytes:
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    record = LeaseRecord(holder=holder, expires_at=expires_at.isoformat(), released=released)
    return record.model_dump_json(indent=2).encode()


def _read(files: NumberedFiles, number: int) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(files.read(number))
    except ValidationError as error:
        path, remedy = files.path(number), "delete it once no retraining of the root runs"
        raise ArtifactError(path, error.errors()[0]["msg"], "a lease", remedy) from error


def _under_way(files: NumberedFiles, record: LeaseRecord) -> RetrainingUnderWay:
    return RetrainingUnderWay(
        "retraining",
        f"held by {record.holder} until {record.expires_at}",
        f"no other retraining of {files.place.uri.removesuffix('/' + FOLDER)}",
        "wait for it to end; one that died is passed over at that time",
    )
