"""Instruction rows from real text on this machine: the documentation of installed Python packages.

A stand-in for the paper's instruction data where there is no network. Source files are parsed, never
imported: nothing of them runs.
"""

import ast
import hashlib
import inspect
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

from turbosparse.data.conversations import Conversation, Turn
from turbosparse.data.digest import digest_of
from turbosparse.errors import DataError

PACKAGES = ("numpy", "scipy", "networkx", "sympy", "pandas", "sklearn")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
STANDARD_LIBRARY_QUOTA = 500
"""Conversations from the standard library at the most."""
PACKAGE_QUOTA = 200
"""Conversations from each installed package at the most."""
ANSWER_CHARACTERS = (40, 1_200)
"""Shortest and longest answer."""

QUESTIONS = (
    "What does `{name}` do?",
    "Explain `{name}`.",
    "What is `{name}` for?",
    "Can you describe `{name}` in Python?",
    "Tell me about `{name}`.",
)
SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "idlelib", "lib2to3", "turtledemo"}
# Where reference sections, markup or long example sessions begin, prose ends.
END_OF_PROSE = re.compile(r"\n[^\n]+\n(?:-{3,}|={3,}|~{3,})\n|\n\s*\.\. |\n\n>>> ")


@dataclass(frozen=True)
class Documented:
    """A public function or class with its documentation."""

    name: str
    """Dotted, as one would import it: `statistics.median`."""
    text: str
    """The docstring's prose."""
    signature: str
    """`median(data)`; empty for a class."""


def local_conversations() -> list[Conversation]:
    """Returns one conversation per documented public function or class, without duplicates.

    The same Python and package versions give the same list. Every third conversation about a function
    goes on to ask how it is called.

    Raises:
        DataError: no source of Python's library is readable here (some slim images strip it).
    """
    by_text: dict[str, Documented] = {}
    for folder, package, quota in _roots():
        for documented in islice(_documented(folder, package), quota):
            by_text.setdefault(documented.text, documented)
    by_name = {documented.name: documented for documented in by_text.values()}
    if not by_name:
        raise DataError(
            "instructions", None, "readable sources of Python's library", "give a file with --instructions"
        )
    return [_conversation(documented) for documented in by_name.values()]


def local_digest() -> str:
    """Returns the sha256 over the Python version and the names and versions of the packages read."""
    versions = [f"python=={platform.python_version()}"]
    versions += [f"{package}=={_version(package)}" for _, package, _ in _roots() if package]
    return digest_of(versions)


def _roots() -> list[tuple[Path, str, int]]:
    """The folders to read, each with its dotted prefix and its quota."""
    installed = Path(sysconfig.get_path("purelib"))
    platform_specific = Path(sysconfig.get_path("platlib"))
    roots = [(Path(sysconfig.get_path("stdlib")), "", STANDARD_LIBRARY_QUOTA)]
    for package in PACKAGES:
        folders = [root / package for root in (platform_specific, installed) if (root / package).is_dir()]
        if folders and _version(package):
            roots.append((folders[0], package, PACKAGE_QUOTA))
    return roots


def _version(package: str) -> str | None:
    try:
        return version(DISTRIBUTIONS.get(package, package))
    except PackageNotFoundError:
        return None


def _documented(folder: Path, package: str) -> Iterator[Documented]:
    """Yields what a folder documents, module by module, in an order that mixes its subpackages."""
    for module in sorted(_modules(folder), key=lambda module: _fingerprint(str(module.relative_to(folder)))):
        parts = [*package.split(), *module.relative_to(folder).with_suffix("").parts]
        prefix = ".".join(part for part in parts if not part.startswith("_"))
        yield from _documented_in(module, prefix)


def _modules(folder: Path) -> Iterator[Path]:
    """Yields the Python files worth reading: a package's all, and the standard library's public ones."""
    is_standard_library = folder == Path(sysconfig.get_path("stdlib"))
    for module in folder.rglob("*.py"):
        parts = module.relative_to(folder).parts
        hidden = is_standard_library and any(part.startswith("_") and part != "__init__.py" for part in parts)
        if not (hidden or SKIPPED_FOLDERS.intersection(parts) or module.name.startswith("test_")):
            yield module


def _documented_in(module: Path, prefix: str) -> Iterator[Documented]:
    try:
        tree = ast.parse(module.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # Some packages ship templates and samples that are not Python of this version.
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = _prose(ast.get_docstring(node, clean=False) or "")
            if text:
                yield Documented(f"{prefix}.{node.name}", text, _signature(node))


def _prose(docstring: str) -> str | None:
    """The docstring's leading prose, whole paragraphs only; None where too short or too long."""
    shortest, longest = ANSWER_CHARACTERS
    text = END_OF_PROSE.split("\n" + inspect.cleandoc(docstring) + "\n")[0].strip()
    while len(text) > longest and "\n\n" in text:
        text = text.rpartition("\n\n")[0].strip()
    return text if shortest <= len(text) <= longest else None


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    return f"{node.name}({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef) else ""


def _conversation(documented: Documented) -> Conversation:
    choice = _fingerprint(documented.name)
    question = QUESTIONS[choice % len(QUESTIONS)].format(name=documented.name)
    turns = [Turn("user", question), Turn("assistant", documented.text)]
    if documented.signature and choice // len(QUESTIONS) % 3 == 0:
        turns += [Turn("user", "How is it called?"), Turn("assistant", f"`{documented.signature}`")]
    return Conversation(tuple(turns))


def _fingerprint(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
