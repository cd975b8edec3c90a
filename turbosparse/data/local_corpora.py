"""Real text and code found on this machine: a named stand-in for each source, without a network."""

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from turbosparse.data.digest import digest_of
from turbosparse.data.installed_text import (
    STANDARD_LIBRARY,
    dependencies,
    docstrings,
    documentation_topics,
    files_of,
    installed,
    licence_texts,
    long_description,
    written_text,
)
from turbosparse.data.reading import Problem, SourceFile, checked_text
from turbosparse.data.sources import source_named

PROJECT = "turbosparse"
EVERY_DEPENDENCY = "*"


@dataclass(frozen=True)
class Shelf:
    """One kind of text in one place, of which at most `max_bytes` are taken."""

    kind: Literal["docstrings", "files", "descriptions", "licences", "topics"]
    max_bytes: int
    package: str = EVERY_DEPENDENCY
    folder: str = ""
    pattern: str = "*.py"
    min_chars: int = 200


# lm-eval's own files are kept out: they hold the evaluation tasks.
STAND_INS: dict[str, tuple[Shelf, ...]] = {
    "package descriptions and documentation": (
        Shelf("descriptions", 3_000_000),
        Shelf("docstrings", 1_500_000, "torchmetrics", "torchmetrics"),
        Shelf("docstrings", 1_500_000, "pandas", "pandas"),
        Shelf("docstrings", 800_000, "huggingface-hub", "huggingface_hub"),
        Shelf("docstrings", 800_000, "torch", "torch/nn"),
    ),
    "scikit-learn docstrings": (Shelf("docstrings", 400_000, "scikit-learn", "sklearn"),),
    "scipy.stats docstrings": (Shelf("docstrings", 400_000, "scipy", "scipy/stats"),),
    "networkx docstrings": (Shelf("docstrings", 400_000, "networkx", "networkx"),),
    "scipy and numpy docstrings": (
        Shelf("docstrings", 400_000, "scipy", "scipy/optimize"),
        Shelf("docstrings", 300_000, "scipy", "scipy/signal"),
        Shelf("docstrings", 300_000, "scipy", "scipy/spatial"),
        Shelf("docstrings", 800_000, "numpy", "numpy"),
    ),
    "Python's documentation topics": (Shelf("topics", 500_000, STANDARD_LIBRARY),),
    "prefect and datasets docstrings": (
        Shelf("docstrings", 50_000, "prefect", "prefect"),
        Shelf("docstrings", 250_000, "datasets", "datasets"),
    ),
    "licence texts": (Shelf("licences", 400_000),),
    "tutorials and long guides": (
        Shelf("files", 800_000, "nltk", "nltk/test", "*.doctest"),
        Shelf("docstrings", 700_000, "sqlalchemy", "sqlalchemy", min_chars=1500),
    ),
    "sympy docstrings": (
        Shelf("docstrings", 200_000, "sympy", "sympy/functions"),
        Shelf("docstrings", 200_000, "sympy", "sympy/matrices"),
        Shelf("docstrings", 200_000, "sympy", "sympy/solvers"),
    ),
    "mpmath docstrings": (Shelf("docstrings", 300_000, "mpmath", "mpmath"),),
    "sympy sources": (Shelf("files", 400_000, "sympy", "sympy/polys"),),
    "C++ headers": (Shelf("files", 400_000, "torch", "torch/include/c10", "*.h"),),
    "CUDA and C headers": (
        Shelf("files", 300_000, "torch", "torch/include/ATen", "*.cuh"),
        Shelf("files", 200_000, "numpy", "numpy/_core/include", "*.h"),
    ),
    "Python type stubs": (Shelf("files", 400_000, "numpy", "numpy", "*.pyi"),),
    "Cython sources": (
        Shelf("files", 400_000, "scikit-learn", "sklearn", "*.pyx"),
        Shelf("files", 200_000, "scikit-learn", "sklearn", "*.pxd"),
    ),
    "standard library sources": (Shelf("files", 600_000, STANDARD_LIBRARY),),
}


@dataclass(frozen=True)
class StandIn:
    """Text on this machine in place of a source."""

    source: str
    name: str
    digest: str

    def read(self, max_document_bytes: int) -> Iterator[str | Problem]:
        """Yields the stand-in's documents, in order of packages and paths."""
        texts = (text for shelf in STAND_INS[self.name] for text in _up_to_limit(shelf))
        for number, text in enumerate(texts, start=1):
            yield checked_text(text, f"{self.name}, text {number}", max_document_bytes)


class LocalCorpora:
    """The same text on every machine with the same Python and the same package versions."""

    def files(self, source: str) -> list[SourceFile]:
        """Returns the source's one stand-in."""
        name = source_named(source).stand_in
        return [StandIn(source, name, _digest(STAND_INS[name]))]

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 over the stand-ins and the versions of the packages that they read."""
        asked = sorted(sources)
        return digest_of(f"{source} {file.digest}" for source in asked for file in self.files(source))

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns each source's stand-in."""
        return {source: f"stand-in: {source_named(source).stand_in}" for source in sources}

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns each source's stand-in, and what it stands in for."""
        asked = map(source_named, sources)
        return {source.name: f"{source.stand_in} instead of {source.paper_name}" for source in asked}

    def problems(self, sources: Iterable[str]) -> list[Problem]:  # noqa: ARG002 - as all corpora
        """Returns nothing: there are no files of the user's here."""
        return []


def _digest(shelves: tuple[Shelf, ...]) -> str:
    """Returns the sha256 of Python's version, the packages' versions and what is taken of them."""
    names = {shelf.package for shelf in shelves}
    found = [installed(name) for name in names - {EVERY_DEPENDENCY, STANDARD_LIBRARY}]
    if EVERY_DEPENDENCY in names:
        found += dependencies(PROJECT)
    versions = {f"{package.name}=={package.version}" for package in found if package is not None}
    return digest_of([f"python=={platform.python_version()}", *sorted(versions), *map(repr, shelves)])


def _up_to_limit(shelf: Shelf) -> Iterator[str]:
    num_bytes = 0
    for text in _texts(shelf):
        if len(text) < shelf.min_chars:
            continue
        num_bytes += len(text.encode("utf-8", "replace"))
        if num_bytes > shelf.max_bytes:
            return
        yield text


def _texts(shelf: Shelf) -> Iterator[str]:
    match shelf.kind:
        case "docstrings":
            for file in files_of(shelf.package, shelf.folder, shelf.pattern):
                yield from docstrings(file, shelf.min_chars)
        case "files":
            for file in files_of(shelf.package, shelf.folder, shelf.pattern):
                yield written_text(file)
        case "descriptions":
            yield from map(long_description, dependencies(PROJECT))
        case "licences":
            for distribution in dependencies(PROJECT):
                yield from licence_texts(distribution)
        case "topics":
            yield from documentation_topics()
