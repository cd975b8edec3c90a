"""Text and code in the packages installed on this machine; nothing is imported to read them."""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

STANDARD_LIBRARY = "python"
# Folders of tests, and of the standard library's own ballast (its site-packages among it).
_SKIPPED_FOLDERS = {"tests", "test", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}


def dependencies(root: str) -> list[metadata.Distribution]:
    """Returns the installed distributions that `root` needs, directly or not, by name."""
    found: dict[str, metadata.Distribution] = {}
    todo = _requirements(metadata.distribution(root))
    while todo:
        name = todo.pop()
        distribution = installed(name)
        if name not in found and distribution is not None:
            found[name] = distribution
            todo += _requirements(distribution)
    return [found[name] for name in sorted(found)]


def installed(name: str) -> metadata.Distribution | None:
    """Returns the distribution called `name`, or None."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def files_of(package: str, folder: str, pattern: str) -> Iterator[Path]:
    """Yields a package's files in order of their paths, tests apart.

    Args:
        package: distribution name, or `python` for the standard library.
        folder: where to look, under site-packages or the standard library.
        pattern: a glob under that folder, at any depth.
    """
    distribution = installed(package)
    if package == STANDARD_LIBRARY:
        root = Path(sysconfig.get_path("stdlib")) / folder
    elif distribution is not None:
        root = Path(str(distribution.locate_file(folder)))
    else:
        return
    for file in sorted(root.rglob(pattern)):
        if not _SKIPPED_FOLDERS.intersection(file.relative_to(root).parts):
            yield file


def docstrings(file: Path, min_chars: int) -> Iterator[str]:
    """Yields a Python file's docstrings, dedented, shorter ones apart."""
    source = _read(file)
    try:
        with warnings.catch_warnings(action="ignore"):
            todo: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= min_chars:
                yield text
            todo += reversed(node.body)


def written_text(file: Path, min_chars: int = 500, max_chars: int = 60_000, longest_line: int = 300) -> str:
    """Returns a file's text if a person seems to have written it, else nothing.

    Very long files, long lines and undecodable bytes mean generated tables, minified code or
    binary data.
    """
    text = _read(file)
    if not min_chars <= len(text) <= max_chars or "\0" in text:
        return ""
    return text if max(map(len, text.splitlines())) <= longest_line else ""


def long_description(distribution: metadata.Distribution) -> str:
    """Returns the long description of a package: most often its README."""
    _, _, body = (distribution.read_text("METADATA") or "").partition("\n\n")
    return body


def licence_texts(distribution: metadata.Distribution) -> Iterator[str]:
    """Yields the licence texts that a package carries."""
    for file in sorted(distribution.files or [], key=str):
        if "dist-info" in file.parts[0] and re.search("licen|notice|copying", file.name, re.IGNORECASE):
            yield _read(Path(str(file.locate())))


def documentation_topics() -> Iterator[str]:
    """Yields the chapters of Python's reference that `help()` shows."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte of text

    for name in sorted(topics):
        yield topics[name]


def _requirements(distribution: metadata.Distribution) -> list[str]:
    needed = [line for line in distribution.requires or [] if "extra ==" not in line]
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in needed]
    return [re.sub(r"[-_.]+", "-", name.group()).lower() for name in names if name]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return ""
