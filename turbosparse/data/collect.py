"""Collects each source's documents, group by group, until there is text enough for its share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from turbosparse.artifacts import ArtifactSpec, Manifest, Store, Workspace
from turbosparse.config.data import DataConfig
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.cleaning.minhash import MinHash
from turbosparse.data.corpora import Corpora, SourceFile
from turbosparse.data.groups import Cleaning, Rows, write_group
from turbosparse.data.layout import NGRAMS_NAME
from turbosparse.data.reading import REASONS
from turbosparse.errors import DataError
from turbosparse.progress import OnProgress, Progress
from turbosparse.workers import MapJobs

DOCUMENTS_VERSION = 1


@dataclass(frozen=True)
class Group:
    """One group of a source's documents in the store."""

    source: str
    spec: ArtifactSpec
    manifest: Manifest
    held_back: tuple[int, ...] | None = None
    """Rows that an earlier corpus held back; None: that corpus did not have the group."""
    is_gone: bool = False
    """Whether its file is no longer there, or is read in another way: only what other files of the source
    still have counts."""


@dataclass(frozen=True)
class CollectJob:
    """The next groups of one source file."""

    root: str
    config: DataConfig
    file: SourceFile
    first_part: int
    num_parts: int
    evaluation: ArtifactSpec | None
    """What documents must not share words with."""


@dataclass
class _FileState:
    file: SourceFile
    num_parts: int = 0
    is_finished: bool = False


@dataclass
class _SourceState:
    wanted_bytes: float
    files: list[_FileState]
    groups: list[tuple[int, int, Group]] = field(default_factory=list)
    """(part, number of the file, group)."""
    known: list[Group] = field(default_factory=list)
    """Those of an earlier corpus."""

    @property
    def num_bytes(self) -> int:
        return sum(group.manifest.metrics["num_bytes"] for _, _, group in self.groups)


def collect_documents(
    config: DataConfig,
    sources: Mapping[str, float],
    corpora: Corpora,
    evaluation: ArtifactSpec | None,
    store: Store,
    map_jobs: MapJobs,
    on_progress: OnProgress,
    known: Sequence[Group] = (),
) -> list[Group]:
    """Returns the groups of every source, sources in their order, a source's files taken in turn.

    Groups that are in the store already are not read again. A source ends when it has the text it
    needs, or none is left; files are read side by side, so that each gives its beginning. Of a source
    that an earlier corpus had, files that are new to it are read, up to the text that the source needs,
    and come before what was known.

    Args:
        config: sizes and cleaning.
        sources: fraction of the tokens by source.
        corpora: where documents come from.
        evaluation: the n-grams to decontaminate against, in the store.
        store: receives the groups.
        map_jobs: who does the work.
        on_progress: hears of the text collected.
        known: the groups of an earlier corpus.

    Raises:
        DataError: a source can't be read.
    """
    budget = config.num_tokens * config.collected_bytes_per_token
    states = {
        source: _open_source(
            [CollectJob(store.root, config, file, 0, 1, evaluation) for file in corpora.files(source)],
            [group for group in known if group.source == source],
            budget * ratio,
        )
        for source, ratio in sources.items()
    }
    total, done = int(sum(state.wanted_bytes for state in states.values())), 0

    def report(manifests: list[Manifest]) -> None:
        nonlocal done
        done += sum(manifest.metrics["num_bytes"] for manifest in manifests)
        on_progress(Progress("collect", min(done, total), total, "bytes"))

    while jobs := [job for state in states.values() for job in _next_jobs(state, config, store, evaluation)]:
        found = map_jobs(collect_groups, jobs, report)
        for job, manifests in zip(jobs, found, strict=True):
            _take(states[job.file.source], job, manifests)
    if total:
        on_progress(Progress("collect", total, total, "bytes"))
    return [group for state in states.values() for group in _in_order(state)]


def collect_groups(job: CollectJob) -> list[Manifest]:
    """Makes the groups of one job, or finds them in the store. Returns those up to the file's end.

    Raises:
        DataError: under `strict`, a group has rows that can't be read, be it one made earlier.
    """
    store, manifests, start = Store(job.root), list[Manifest](), 0
    rows = Rows(iter(job.file.read(job.config.max_document_bytes)))
    for part in range(job.first_part + job.num_parts):
        made = store.produce(documents_spec(job, part), partial(_build, job, rows, start))
        manifests.append(made.manifest)
        if job.config.strict:
            _refuse_problems(made.manifest)
        start += made.manifest.metrics["num_rows"]
        if made.manifest.metrics["is_last"]:
            break
    return manifests[job.first_part :]


def refused_by_strict(reason: str, sample: str) -> DataError:
    """Returns the error for what a strict build does not count and pass over."""
    remedy = "repair or remove it, or have such rows counted with data.strict=false"
    return DataError("data.strict", sample, f"rows and files that can be read (this one: {reason})", remedy)


def documents_spec(job: CollectJob, part: int) -> ArtifactSpec:
    """Returns what decides a group's content."""
    config = job.config
    tree = {
        "near_duplicates": config.near_duplicates,
        "quality": config.quality.model_dump(mode="json") if config.quality else None,
        "max_document_bytes": config.max_document_bytes,
        "group_bytes": config.group_bytes,
        "part": part,
    }
    parents = {"evaluation": job.evaluation} if job.evaluation else {}
    return ArtifactSpec("documents", DOCUMENTS_VERSION, tree, parents, {"file": job.file.digest})


def _build(job: CollectJob, rows: Rows, start: int, workspace: Workspace) -> dict[str, Any]:
    rows.advance_to(start)
    found = write_group(rows, _cleaning(job), job.config.group_bytes, workspace.folder)
    return {"source": job.file.source, "file": job.file.name, **found}


def _cleaning(job: CollectJob) -> Cleaning:
    return Cleaning(
        quality=job.config.quality,
        minhash=MinHash() if job.config.near_duplicates else None,
        contamination=_contamination(job.root, job.evaluation.name) if job.evaluation else None,
    )


def _refuse_problems(manifest: Manifest) -> None:
    for reason, entry in manifest.metrics["dropped"].items():
        if reason in REASONS:
            raise refused_by_strict(reason, entry["samples"][0])


@lru_cache(maxsize=1)
def _contamination(root: str, name: str) -> Contamination:
    store = Store(root)
    return Contamination.load(store.file(store.load(name).manifest, NGRAMS_NAME))


def _open_source(
    first_jobs: Sequence[CollectJob], known: Sequence[Group], wanted_bytes: float
) -> _SourceState:
    """Returns what is still to be read of a source: all files, or those that `known` has nothing of."""
    jobs = {job.file.digest: job for job in first_jobs}
    standing = [group for group in known if _stands(group, jobs)]
    gone = [replace(group, is_gone=True) for group in known if not _stands(group, jobs)]
    parts = {digest: [group for group in standing if _file_of(group) == digest] for digest in jobs}
    fresh = [_FileState(jobs[digest].file) for digest, groups in parts.items() if not groups]
    if fresh:
        # What a file that grew has of its earlier self is read once more, and counts for nothing.
        return _SourceState(wanted_bytes + _num_bytes(gone), fresh, known=[*standing, *gone])
    files = [
        _FileState(jobs[digest].file, len(groups), groups[-1].manifest.metrics["is_last"])
        for digest, groups in parts.items()
    ]
    missing_bytes = max(wanted_bytes - _num_bytes(standing), 0)
    return _SourceState(missing_bytes, files, known=[*standing, *gone])


def _stands(group: Group, jobs: Mapping[str, CollectJob]) -> bool:
    """Returns whether the file is there and would give the group again."""
    job = jobs.get(_file_of(group))
    return job is not None and documents_spec(job, group.spec.config["part"]).name == group.spec.name


def _file_of(group: Group) -> str:
    return group.spec.inputs["file"]


def _num_bytes(groups: Sequence[Group]) -> int:
    return sum(group.manifest.metrics["num_bytes"] for group in groups)


def _in_order(state: _SourceState) -> list[Group]:
    """Returns what was read, each file's first part before any second, and then what was known."""
    return [group for _, _, group in sorted(state.groups, key=lambda found: found[:2])] + state.known


def _next_jobs(
    state: _SourceState, config: DataConfig, store: Store, evaluation: ArtifactSpec | None
) -> list[CollectJob]:
    missing = state.wanted_bytes - state.num_bytes
    unfinished = [file for file in state.files if not file.is_finished]
    if missing <= 0 or not unfinished:
        return []
    num_parts = math.ceil(missing / config.group_bytes)
    shares = [
        num_parts // len(unfinished) + (number < num_parts % len(unfinished))
        for number in range(len(unfinished))
    ]
    return [
        CollectJob(store.root, config, file.file, file.num_parts, share, evaluation)
        for file, share in zip(unfinished, shares, strict=True)
        if share
    ]


def _take(state: _SourceState, job: CollectJob, manifests: list[Manifest]) -> None:
    number = next(index for index, found in enumerate(state.files) if found.file == job.file)
    file = state.files[number]
    for part, manifest in enumerate(manifests, start=job.first_part):
        group = Group(job.file.source, documents_spec(job, part), manifest)
        state.groups.append((part, number, group))
    file.num_parts += len(manifests)
    file.is_finished = manifests[-1].metrics["is_last"]
