"""The sources' own data sets on the Hugging Face hub, or what is chosen in place of those that are gone."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from turbosparse.data.digest import digest_of
from turbosparse.data.hub_files import HubFile
from turbosparse.data.reading import Problem, SourceFile
from turbosparse.data.sources import SOURCES, HubFiles, Source, source_named
from turbosparse.errors import DataError

_SETTING = "data.corpora"
_FOLDER_REMEDY = f"or use {_SETTING}=folder with files of your own"


@dataclass(frozen=True)
class _Choice:
    """What is read for a source."""

    hub: HubFiles
    is_gated: bool = False
    substitute: str = ""
    """What it is, and why, where it is not the source's own data set."""


@dataclass(frozen=True)
class _Refusal:
    """Why nothing can be read for a source."""

    expected: str
    remedy: str


class PinnedHub:
    """Data sets of the hub, each at the commit that its branch had when it was first asked for."""

    def __init__(self, setting: str) -> None:
        """Asks the hub nothing.

        Args:
            setting: the field with which a user reads something else, for the errors: `data.corpora`.
        """
        self._setting = setting
        self._commits: dict[tuple[str, str], str] = {}
        self._uris: dict[HubFiles, list[str]] = {}

    def commit(self, hub: HubFiles) -> str:
        """Returns the data set's commit.

        Raises:
            DataError: the hub can't be reached, or has no such data set.
        """
        key = (hub.dataset, hub.branch)
        if key not in self._commits:
            try:
                commit = _look_up_commit(hub)
            except Exception as error:  # whatever the HTTP client of the day raises
                raise self._unreadable(hub, "one that can be reached") from error
            assert commit is not None
            self._commits[key] = commit
        return self._commits[key]

    def uris(self, hub: HubFiles) -> list[str]:
        """Returns the data set's files in an order that makes the first ones a fair sample.

        Raises:
            DataError: as `commit`; the data set can't be listed, or has no such files.
        """
        if hub not in self._uris:
            commit = self.commit(hub)
            try:
                found = _list_uris(hub, commit)
            except DataError:
                raise
            except Exception as error:  # as above
                raise self._unreadable(hub, "one that can be listed") from error
            if not found:
                raise DataError(
                    f"{hub.dataset} at {commit}",
                    ", ".join(hub.data_files),
                    "files of these names",
                    f"the data set has changed: use {self._setting}=folder with files of your own",
                )
            self._uris[hub] = sorted(found, key=_shuffled)
        return self._uris[hub]

    def _unreadable(self, hub: HubFiles, expected: str) -> DataError:
        remedy = f"check the network and the data set's name, or use {self._setting}=local or folder"
        return DataError("hub data set", hub.dataset, expected, remedy)


class HubCorpora:
    """Data sets read file by file, at a revision that was looked up once."""

    def __init__(self, substitutes: Mapping[str, str] | Literal["recorded", "none"] = "recorded") -> None:
        """Chooses what to read; asks the hub nothing.

        Args:
            substitutes: the recorded ones, none, or for each source `recorded` or another source's name.

        Raises:
            DataError: a substitute that does not exist.
        """
        self._default = substitutes if isinstance(substitutes, str) else "none"
        self._named = {} if isinstance(substitutes, str) else dict(substitutes)
        self._hub = PinnedHub(_SETTING)
        for name, chosen in self._named.items():
            _check_substitute(source_named(name), chosen)

    def files(self, source: str) -> list[SourceFile]:
        """Returns the source's files in an order that makes the first ones a fair sample.

        Raises:
            DataError: a gated source without a token, one that was withdrawn and has no chosen
                substitute, a hub that can't be reached, or a data set without such files.
        """
        hub = self._chosen([source])[source].hub
        commit = self._hub.commit(hub)
        return [HubFile(source, uri, hub, commit) for uri in self._hub.uris(hub)]

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 over the digests of the sources' files.

        Raises:
            DataError: as `files`; access to every source is checked before the hub is asked anything.
        """
        asked = sorted(self._chosen(sources))
        return digest_of(f"{source} {file.digest}" for source in asked for file in self.files(source))

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns each source's data set and files, and what they substitute.

        Raises:
            DataError: as `files`, but nothing is asked of the hub.
        """
        return {
            source: f"{described(choice.hub)} ({choice.substitute})"
            if choice.substitute
            else described(choice.hub)
            for source, choice in self._chosen(sources).items()
        }

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns the substitutes in use, each with what it replaces and why.

        Raises:
            DataError: as `describe`.
        """
        return {
            source: f"{described(choice.hub)} {choice.substitute}"
            for source, choice in self._chosen(sources).items()
            if choice.substitute
        }

    def problems(self, sources: Iterable[str]) -> list[Problem]:  # noqa: ARG002 - as all corpora
        """Returns nothing: the hub's files are known by their rows only."""
        return []

    def _chosen(self, sources: Iterable[str]) -> dict[str, _Choice]:
        choices: dict[str, _Choice] = {}
        refusals: dict[str, _Refusal] = {}
        for source in map(source_named, sources):
            found = _with_token(_choose(source, self._named.get(source.name), self._default))
            if isinstance(found, _Refusal):
                refusals[source.name] = found
            else:
                choices[source.name] = found
        if refusals:
            raise DataError(
                "data.mixture",
                ", ".join(refusals),
                "; ".join(f"for {name} {refusal.expected}" for name, refusal in refusals.items()),
                "; ".join([*dict.fromkeys(refusal.remedy for refusal in refusals.values()), _FOLDER_REMEDY]),
            )
        return choices


def _check_substitute(source: Source, chosen: str) -> None:
    found = source.substitute if chosen == "recorded" else source_named(chosen).hub
    if found is None:
        raise DataError(
            f"data.substitutes.{source.name}",
            chosen,
            "`recorded` where the registry has a substitute, or a source that is on the hub",
            f"name one of {', '.join(other.name for other in SOURCES.values() if other.hub)}",
        )


def _choose(source: Source, named: str | None, default: str) -> _Choice | _Refusal:
    """Returns what is read for a source.

    Args:
        source: the registry's row.
        named: what the user wants in its place, if anything.
        default: `recorded` or `none`, for sources that are gone.
    """
    if named is None and source.hub is not None:
        return _Choice(source.hub, source.access == "gated")
    chosen = named or default
    if chosen == "recorded" and source.substitute is not None:
        why = f"instead of {source.paper_name}: {source.substitute.why}"
        return _Choice(source.substitute.hub, substitute=why)
    if chosen in SOURCES:
        other = SOURCES[chosen]
        assert other.hub is not None, "checked when the corpora were opened"
        return _Choice(
            other.hub, other.access == "gated", f"instead of {source.paper_name}: chosen by the user"
        )
    recorded = source.substitute.hub.dataset if source.substitute else "none"
    return _Refusal(
        f"a substitute, for it is not on the hub (recorded: {recorded})",
        "choose the recorded substitutes with `--set data.substitutes=recorded`",
    )


def _with_token(choice: _Choice | _Refusal) -> _Choice | _Refusal:
    """Returns the choice, refused if it needs a token and there is none."""
    from huggingface_hub import get_token  # noqa: PLC0415 - only the hub needs it

    if isinstance(choice, _Refusal) or not choice.is_gated or get_token() is not None:
        return choice
    dataset = choice.hub.dataset
    return _Refusal(
        f"a Hugging Face token of an account that accepted the terms of {dataset}",
        f"accept them at https://huggingface.co/datasets/{dataset}, then run `hf auth login`",
    )


def _look_up_commit(hub: HubFiles) -> str | None:
    from huggingface_hub import HfApi  # noqa: PLC0415 - only the hub needs it

    return HfApi().dataset_info(hub.dataset, revision=hub.branch, timeout=30).sha


def _list_uris(hub: HubFiles, commit: str) -> list[str]:
    from huggingface_hub import HfFileSystem, hf_hub_download  # noqa: PLC0415

    if hub.url_origins:
        lists = [
            hf_hub_download(hub.dataset, name, repo_type="dataset", revision=commit)
            for name in hub.data_files
        ]
        listed = [url for path in lists for url in Path(path).read_text(encoding="utf-8").split()]
        return [_checked_url(url, hub) for url in listed]
    root = f"datasets/{hub.dataset}@{commit}"
    found = [path for glob in hub.data_files for path in HfFileSystem().glob(f"{root}/{glob}")]
    return [f"hf://{path}" for path in found]


def _checked_url(url: str, hub: HubFiles) -> str:
    """Returns a listed URL if it leads where the registry says: whoever edits the list picks no server."""
    parts = urlsplit(url)
    if f"{parts.scheme}://{parts.netloc}" not in hub.url_origins:
        expected = f"URLs of {' or '.join(hub.url_origins)}"
        remedy = f"the data set has changed: {_FOLDER_REMEDY.removeprefix('or ')}"
        raise DataError(f"{hub.dataset}: {', '.join(hub.data_files)}", url, expected, remedy)
    return url


def _shuffled(uri: str) -> tuple[str, str]:
    """Sorts files as if they were shuffled, in the same way at every commit."""
    return hashlib.sha256(PurePosixPath(uri).name.encode()).hexdigest(), uri


def described(hub: HubFiles) -> str:
    """Returns the data set and which of its files are read."""
    return f"{hub.dataset}: {', '.join(hub.data_files)}"
