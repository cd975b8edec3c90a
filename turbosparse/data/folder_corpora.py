"""A user's own folder of JSONL files as corpora."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data.documents import Claims, digest_of
from turbosparse.data.local_corpora import LocalCorpora
from turbosparse.data.sources import SOURCES, Category
from turbosparse.errors import DataError

MAPPING_NAME = "sources.yaml"
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
class _Share:
    """A file, and which of its documents a source has: number `turn` of every `of`."""

    file: Path
    turn: int
    of: int


class FolderCorpora:
    """`*.jsonl` files with a string `text` field, given to sources by `sources.yaml`.

    The mapping reads `file: source`, `file: [sources]`, `source: file` or `source: [files]`. A file
    of several sources is dealt out document by document. Without a mapping, words in the file
    names say which category of sources has them (web where none does). Sources that no file covers
    fall back to text found on this machine.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError("corpora", str(folder), "an existing folder", "check the path")
        self._folder = folder
        self._shares = _shares_in(folder)
        if not any(_has_text(file) for file in {s.file for shares in self._shares.values() for s in shares}):
            raise DataError(
                "corpora",
                str(folder),
                "*.jsonl files with a string `text` field, named or mapped so that a source has them",
                f"add such files, and a {MAPPING_NAME} if their names do not say what they are",
            )
        self._local = LocalCorpora()
        self._claims = Claims()

    def documents(self, source: str) -> Iterator[str]:
        """Yields the source's documents, files in order of their names.

        Raises:
            DataError: a line that is not a JSON object with a string `text` in UTF-8; the message
                names file and line.
        """
        shares = self._shares.get(source)
        if shares is None:
            yield from self._claims.first(source, self._local.documents(source))
            return
        texts = (text for share in shares for text in _texts(share))
        yield from self._claims.first(source, texts)

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 of which files the sources have and of the files' bytes."""
        asked = sorted(sources)
        covered = {source: self._shares[source] for source in asked if source in self._shares}
        files = sorted({share.file for shares in covered.values() for share in shares})
        lines = [f"{file.name} {_sha256(file)}" for file in files]
        lines += [
            f"{source} {share.file.name} {share.turn}/{share.of}"
            for source, shares in covered.items()
            for share in shares
        ]
        uncovered = [source for source in asked if source not in covered]
        return digest_of([*lines, self._local.digest(uncovered)] if uncovered else lines)

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns the files behind each source, or the stand-in where there are none."""
        asked = list(sources)
        stand_ins = self._local.describe(asked)
        return {
            source: ", ".join(_described(share) for share in self._shares[source])
            if source in self._shares
            else f"not covered by the folder; {stand_ins[source]}"
            for source in asked
        }


def _shares_in(folder: Path) -> dict[str, list[_Share]]:
    mapping = folder / MAPPING_NAME
    if mapping.is_file():
        pairs = set(_mapped(mapping))
        by_file = {folder / file: [name for name in SOURCES if (file, name) in pairs] for file, _ in pairs}
    else:
        by_file = {file: _table_4_sources(file.stem) for file in folder.glob("*.jsonl")}
    shares: dict[str, list[_Share]] = {}
    for file, sources in sorted(by_file.items()):
        for turn, source in enumerate(sources):
            shares.setdefault(source, []).append(_Share(file, turn, len(sources)))
        if not mapping.is_file() and "wanjuan-cc" in sources:
            # No row of Table 4: it takes its place, so it doesn't share with the others.
            shares.setdefault("fineweb", []).append(_Share(file, 0, 1))
    return shares


def _table_4_sources(stem: str) -> list[str]:
    named = (category for category, words in CATEGORY_WORDS.items() if any(w in stem.lower() for w in words))
    # A file whose name says nothing is taken for web text rather than left out unsaid.
    category = next(named, "web")
    return [name for name in TABLE_4_PERCENT if SOURCES[name].category == category]


def _mapped(mapping: Path) -> list[tuple[str, str]]:
    """Reads pairs of file name and source, whichever of the two the YAML is keyed by."""
    try:
        content: Any = yaml.safe_load(mapping.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(str(mapping), str(error), "valid YAML", "correct the file") from error
    if not isinstance(content, dict):
        raise DataError(
            str(mapping), content, "`file: source` or `source: file` entries", "write one line per file"
        )
    pairs = []
    for key, value in content.items():
        for other in value if isinstance(value, list) else [value]:
            pairs.append((str(other), str(key)) if key in SOURCES else (str(key), str(other)))
    _check(mapping, pairs)
    return pairs


def _check(mapping: Path, pairs: list[tuple[str, str]]) -> None:
    unknown = sorted({source for _, source in pairs if source not in SOURCES})
    if unknown:
        raise DataError(
            str(mapping),
            ", ".join(unknown),
            f"sources among {', '.join(SOURCES)}",
            "use these names in the mapping",
        )
    missing = sorted({file for file, _ in pairs if not (mapping.parent / file).is_file()})
    if missing:
        raise DataError(
            str(mapping),
            ", ".join(missing),
            "files that lie beside the mapping",
            "correct the names or add the files",
        )


def _texts(share: _Share) -> Iterator[str]:
    number = 0
    with share.file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if number % share.of == share.turn:
                text = _text_of(line, share.file, line_number)
                if text.strip():
                    yield text
            number += 1


def _text_of(line: bytes, file: Path, line_number: int) -> str:
    where = f"{file}, line {line_number}"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(where, str(error), "UTF-8", "re-encode or remove the line") from error
    except json.JSONDecodeError as error:
        raise DataError(where, str(error), "one JSON object per line", "repair or remove the line") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(
            where, row, "an object with a string `text` field", "rename the field or remove the line"
        )
    return text


def _has_text(file: Path) -> bool:
    return next(_texts(_Share(file, 0, 1)), None) is not None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _described(share: _Share) -> str:
    return (
        share.file.name if share.of == 1 else f"{share.file.name} (document {share.turn + 1} of {share.of})"
    )
