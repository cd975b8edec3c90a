"""The sources' own data sets on the Hugging Face hub, streamed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from turbosparse.data.documents import Claims, digest_of
from turbosparse.data.sources import HubFiles, source_named
from turbosparse.errors import DataError

_OFFLINE_REMEDY = "check the network and the data set's name, or use data.corpora=local or folder"


class HubCorpora:
    """Data sets read in streaming mode at a revision that was looked up once."""

    def __init__(self) -> None:
        self._revisions: dict[tuple[str, str], str] = {}
        self._claims = Claims()

    def documents(self, source: str) -> Iterator[str]:
        """Yields the source's documents as they arrive; nothing is kept on disk.

        Raises:
            DataError: a gated source without a token, a source without a hub id, a hub that can't
                be reached, or rows without the text field.
        """
        hub = _readable(source)
        yield from self._claims.first(source, _texts(source, hub, self._revision(hub)))

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 of the commits that the data sets are read at.

        Raises:
            DataError: as `documents`; every source is checked before the hub is asked anything.
        """
        by_source = {source: _readable(source) for source in sorted(sources)}
        return digest_of(f"{source} {hub} {self._revision(hub)}" for source, hub in by_source.items())

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns data set, files and, where one is used, what it substitutes."""
        return {source: _described(_readable(source)) for source in sources}

    def _revision(self, hub: HubFiles) -> str:
        key = (hub.dataset, hub.branch)
        if key not in self._revisions:
            self._revisions[key] = _commit(hub)
        return self._revisions[key]


def _readable(name: str) -> HubFiles:
    from huggingface_hub import get_token  # noqa: PLC0415 - only the hub needs it

    hub = source_named(name).hub
    if hub is None:
        raise DataError(
            "source",
            name,
            "a source with a data set on the hub",
            "take it out of data.mixture, or use data.corpora=folder with files of your own",
        )
    if hub.gated and get_token() is None:
        raise DataError(
            "source",
            name,
            f"a Hugging Face token of an account that accepted the terms of {hub.dataset}",
            f"accept them at https://huggingface.co/datasets/{hub.dataset}, then run `hf auth login`",
        )
    return hub


def _commit(hub: HubFiles) -> str:
    from huggingface_hub import HfApi  # noqa: PLC0415 - only the hub needs it

    try:
        commit = HfApi().dataset_info(hub.dataset, revision=hub.branch, timeout=30).sha
    except Exception as error:  # whatever the HTTP client of the day raises
        raise DataError("hub data set", hub.dataset, "one that can be reached", _OFFLINE_REMEDY) from error
    assert commit is not None
    return commit


def _texts(source: str, hub: HubFiles, commit: str) -> Iterator[str]:
    for row in _rows(hub, commit):
        if hub.filter_field and _value(row, hub.filter_field) not in hub.filter_values:
            continue
        text = row.get(hub.text_field)
        if not isinstance(text, str):
            raise DataError(
                f"{source} ({hub.dataset} at {commit})",
                sorted(row),
                f"rows with a string `{hub.text_field}`",
                "the data set has changed: give the source's text with data.corpora=folder",
            )
        if text.strip():
            yield text


def _rows(hub: HubFiles, commit: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset  # noqa: PLC0415 - seconds to import, and only the hub needs it
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    if hub.url_list:
        lists = [
            hf_hub_download(hub.dataset, f, repo_type="dataset", revision=commit) for f in hub.data_files
        ]
        files = [url for path in lists for url in Path(path).read_text(encoding="utf-8").split()]
    else:
        files = [f"hf://datasets/{hub.dataset}@{commit}/{glob}" for glob in hub.data_files]
    yield from load_dataset(hub.builder, data_files=files, split="train", streaming=True)


def _value(row: dict[str, Any], dotted: str) -> Any:
    value: Any = row
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _described(hub: HubFiles) -> str:
    files = f"{hub.dataset}: {', '.join(hub.data_files)}"
    return f"{files} (instead of {hub.substitute_for})" if hub.substitute_for else files
