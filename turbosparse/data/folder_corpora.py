"""A folder of the user's own files as corpora."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.config.yaml_text import NotYaml, parse_yaml
from turbosparse.data.digest import digest_of
from turbosparse.data.local_corpora import LocalCorpora
from turbosparse.data.reading import FORMATS, Problem, SourceFile, excerpt, format_of, read_texts
from turbosparse.data.reading_folder import Folder, ListedFile, digest_content
from turbosparse.data.sources import SOURCES, Category
from turbosparse.errors import DataError

MAPPING_NAME = "sources.yaml"
DEFAULT_TEXT_FIELD = "text"
# The first category with a word in the file's name has it.
CATEGORY_WORDS: dict[Category, tuple[str, ...]] = {
    "math": ("math", "latex", "proof", "algebra"),
    "academic": ("academic", "arxiv", "pubmed", "s2orc", "pes2o", "plos", "abstract", "science"),
    "wiki": ("wiki",),
    "books": ("book", "gutenberg", "pg19", "novel"),
    "code": ("code", "github", "java", "csharp", "typescript", "python", "starcode"),
    "web": ("web", "c4", "crawl", "stories", "news", "blog"),
}


@dataclass(frozen=True)
class FolderFile:
    """A file, and which of its documents the source has: number `turn` of every `of`."""

    source: str
    name: str
    digest: str
    uri: str
    text_field: str
    turn: int = 0
    of: int = 1

    def read(self, max_document_bytes: int) -> Iterator[str | Problem]:
        """Yields the share's documents; the file's problems come with its first share only."""
        number = 0
        for text in read_texts(self.uri, self.text_field, max_document_bytes):
            if isinstance(text, Problem):
                if self.turn == 0:
                    yield text
                continue
            if number % self.of == self.turn:
                yield text
            number += 1


@dataclass(frozen=True)
class _Entry:
    """A file of the folder, and the sources that share it."""

    file: ListedFile
    sources: tuple[str, ...]
    text_field: str = DEFAULT_TEXT_FIELD


class FolderCorpora:
    """Files of JSON lines or Parquet, on disk or behind a URI, given to sources by `sources.yaml`.

    The mapping reads `file: source`, `file: [sources]`, `source: file`, `source: [files]` or
    `file: {sources: [sources], text_field: name}`. A file of several sources is dealt out document
    by document. Without a mapping, words in the file names say which category of sources has them
    (web where none does). A file with the bytes of an earlier one is left out. Sources that no file
    covers fall back to text found on this machine.
    """

    def __init__(self, folder: str | Path) -> None:
        opened = Folder(str(folder))
        mapping = opened.read(MAPPING_NAME)
        self._entries = _named(opened) if mapping is None else _mapped(opened, mapping)
        if not self._entries:
            raise DataError(
                "corpora",
                str(folder),
                f"files {', '.join('*' + suffix for suffix in FORMATS)}",
                f"add such files, and a {MAPPING_NAME} if their names do not say what they are",
            )
        self._local = LocalCorpora()
        self._covered = {source for entry in self._entries for source in entry.sources}

    def files(self, source: str) -> list[SourceFile]:
        """Returns the source's files in order of their names, or its stand-in where it has none.

        Raises:
            DataError: all of the source's files are copies of other files.
        """
        if source not in self._covered:
            return self._local.files(source)
        files = [file for file in self._shares if file.source == source]
        if not files:
            copies = ", ".join(problem.where for problem in self.problems([source]))
            raise DataError(
                f"corpora of {source}",
                copies,
                "a file that is no copy of another",
                f"share the file in {MAPPING_NAME} with `file: [sources]`, or add other text",
            )
        return list(files)

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 over the digests of the sources' files; where they lie has no part in it."""
        asked = sorted(sources)
        return digest_of(f"{source} {file.digest}" for source in asked for file in self.files(source))

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns the files behind each source, or the stand-in where there are none."""
        return {
            source: ", ".join(file.name for file in self.files(source))
            if source in self._covered
            else f"not covered by the folder; {self._local.describe([source])[source]}"
            for source in sources
        }

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns the stand-ins of the sources that no file covers."""
        return self._local.substitutes(source for source in sources if source not in self._covered)

    def problems(self, sources: Iterable[str]) -> list[Problem]:
        """Returns the sources' files that are empty, and those left out as copies."""
        asked = set(sources)
        found = (self._problem(entry.file) for entry in self._entries if asked.intersection(entry.sources))
        return list(dict.fromkeys(problem for problem in found if problem))

    def _problem(self, file: ListedFile) -> Problem | None:
        if file.num_bytes == 0:
            return Problem("empty file", file.name, "")
        if file.name in self._copies:
            return Problem("duplicate file", file.name, excerpt(f"same bytes as {self._copies[file.name]}"))
        return None

    @cached_property
    def _copies(self) -> dict[str, str]:
        """Names of files that would give the documents of an earlier file, and that file's name."""
        first: dict[str, str] = {}
        for entry in self._entries:
            if entry.file.num_bytes:
                first.setdefault(_digest(entry), entry.file.name)
        return {
            entry.file.name: first[_digest(entry)]
            for entry in self._entries
            if first.get(_digest(entry), entry.file.name) != entry.file.name
        }

    @cached_property
    def _shares(self) -> list[FolderFile]:
        entries = [entry for entry in self._entries if entry.file.name not in self._copies]
        return [share for entry in entries for share in _dealt(entry)]


def _named(folder: Folder) -> list[_Entry]:
    """Gives files to the sources of the category that their names say."""
    entries = []
    for name in folder.names():
        file = folder.find(name)
        assert file is not None
        sources = _table_4_sources(name.removesuffix(format_of(name) or ""))
        entries.append(_Entry(file, sources))
        if "wanjuan-cc" in sources:
            # No row of Table 4: it takes its place, so it doesn't share with the others.
            entries.append(_Entry(file, ("fineweb",)))
    return entries


def _table_4_sources(stem: str) -> tuple[str, ...]:
    named = (category for category, words in CATEGORY_WORDS.items() if any(w in stem.lower() for w in words))
    # A file whose name says nothing is taken for web text rather than left out unsaid.
    category = next(named, "web")
    return tuple(name for name in TABLE_4_PERCENT if SOURCES[name].category == category)


def _mapped(folder: Folder, content: bytes) -> list[_Entry]:
    where = f"{folder.uri}/{MAPPING_NAME}"
    sources_of, fields = _parsed(where, content)
    named = {source for sources in sources_of.values() for source in sources}
    _refuse(where, named - SOURCES.keys(), f"sources among {', '.join(SOURCES)}", "use these names")
    outside = {name for name in sources_of if ".." in name.split("/")}
    _refuse(where, outside, "files below the folder", "move the files there")
    unreadable = {name for name in sources_of if not format_of(name)}
    _refuse(where, unreadable, f"files {', '.join('*' + suffix for suffix in FORMATS)}", "convert the files")
    files = {name: folder.find(name) for name in sorted(sources_of)}
    missing = {name for name, file in files.items() if file is None}
    _refuse(where, missing, "files that lie beside the mapping", "correct the names or add the files")
    return [
        _Entry(file, tuple(s for s in SOURCES if s in sources_of[name]), fields.get(name, DEFAULT_TEXT_FIELD))
        for name, file in files.items()
        if file is not None
    ]


def _parsed(where: str, content: bytes) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Reads the sources and the text fields of files, whether the YAML is keyed by file or by source."""
    try:
        tree: Any = parse_yaml(content.decode())
    except (NotYaml, UnicodeDecodeError) as error:
        raise DataError(where, str(error), "valid YAML", "correct the file") from error
    if not isinstance(tree, dict):
        raise DataError(where, tree, "`file: source` or `source: file` entries", "write one line per file")
    sources_of: dict[str, set[str]] = {}
    fields: dict[str, str] = {}
    for key, value in tree.items():
        others = value
        if isinstance(value, dict):
            others, fields[str(key)] = _detailed(where, str(key), value)
        for other in others if isinstance(others, list) else [others]:
            file, source = (other, key) if key in SOURCES else (key, other)
            sources_of.setdefault(str(file), set()).add(str(source))
    return sources_of, fields


def _detailed(where: str, file: str, value: dict[Any, Any]) -> tuple[Any, str]:
    field = value.get("text_field", DEFAULT_TEXT_FIELD)
    if "sources" not in value or not value.keys() <= {"sources", "text_field"} or not isinstance(field, str):
        raise DataError(
            f"{where}: {file}", value, "`{sources: [names], text_field: name}`", "correct the entry's keys"
        )
    return value["sources"], field


def _refuse(where: str, names: set[str], expected: str, remedy: str) -> None:
    if names:
        raise DataError(where, ", ".join(sorted(names)), expected, remedy)


def _dealt(entry: _Entry) -> Iterator[FolderFile]:
    of = len(entry.sources)
    for turn, source in enumerate(entry.sources):
        name = entry.file.name if of == 1 else f"{entry.file.name} (document {turn + 1} of {of})"
        digest = digest_of([_digest(entry), f"{turn}/{of}"])
        yield FolderFile(source, name, digest, entry.file.uri, entry.text_field, turn, of)


def _digest(entry: _Entry) -> str:
    """Returns the sha256 over what decides a file's documents; its place and its name do not."""
    return digest_of([digest_content(entry.file), str(format_of(entry.file.name)), entry.text_field])
