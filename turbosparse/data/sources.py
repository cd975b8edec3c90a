"""The sources of the recovery corpus: where each lies on the hub, and what stands in offline.

The order matters: documents go to the first source that claims them, so a source that shares its
data set with a later one (PG19 with the books, FineWeb with OpenWebText) comes first.

Reference:
    TurboSparse, Table 4.
"""

from dataclasses import dataclass
from typing import Literal

from turbosparse.errors import DataError

Category = Literal["academic", "web", "wiki", "books", "math", "code"]


@dataclass(frozen=True)
class HubFiles:
    """Data files of one source on the Hugging Face hub, read without running any script."""

    dataset: str
    """Data set id, `owner/name`."""
    builder: Literal["json", "parquet"]
    """Which reader of `datasets` understands the files."""
    data_files: tuple[str, ...]
    """Globs under the data set's root; with `url_list`, the text files that list the URLs."""
    text_field: str = "text"
    branch: str = "main"
    """Branch or tag that is resolved to a commit before reading."""
    filter_field: str | None = None
    """Dotted path of a column that decides whether a row belongs to the source."""
    filter_values: tuple[str, ...] = ()
    url_list: bool = False
    gated: bool = False
    """Whether a token of an account that accepted the terms is needed."""
    substitute_for: str | None = None
    """The paper's own data, where it is not on the hub and this data set replaces it."""


@dataclass(frozen=True)
class Source:
    """One row of Table 4."""

    name: str
    category: Category
    hub: HubFiles | None
    stand_in: str
    """Name of the local stand-in (see `local_corpora.STAND_INS`)."""
    note: str = ""


def source_named(name: str) -> Source:
    """Returns the source called `name`.

    Raises:
        DataError: no such source; the message lists the known ones.
    """
    if name not in SOURCES:
        raise DataError("source", name, f"one of {', '.join(SOURCES)}", "use one of these names")
    return SOURCES[name]


def _pile(*subsets: str) -> HubFiles:
    return HubFiles(
        dataset="monology/pile-uncopyrighted",
        builder="json",
        data_files=("train/*.jsonl.zst",),
        filter_field="meta.pile_set_name",
        filter_values=subsets,
    )


def _starcode(*languages: str) -> HubFiles:
    return HubFiles(
        dataset="bigcode/starcoderdata",
        builder="parquet",
        data_files=tuple(f"{language}/*.parquet" for language in languages),
        text_field="content",
        gated=True,
    )


def _proof_pile(folder: str) -> HubFiles:
    return HubFiles("EleutherAI/proof-pile-2", "json", (f"{folder}/train/*.jsonl.zst",))


def _fineweb(substitute_for: str | None) -> HubFiles:
    return HubFiles(
        "HuggingFaceFW/fineweb", "parquet", ("sample/10BT/*.parquet",), substitute_for=substitute_for
    )


def _pg19(substitute_for: str | None) -> HubFiles:
    return HubFiles("emozilla/pg19", "parquet", ("data/train-*.parquet",), substitute_for=substitute_for)


_OTHER_LANGUAGES = (
    "python",
    "c",
    "cpp",
    "go",
    "javascript",
    "php",
    "ruby",
    "rust",
    "scala",
    "kotlin",
    "shell",
    "sql",
    "haskell",
    "julia",
    "lua",
    "markdown",
)
_PES2O = HubFiles("allenai/peS2o", "json", ("data/v2/*.json.gz",))
_WIKIPEDIA = HubFiles("togethercomputer/RedPajama-Data-1T", "json", ("urls/wikipedia.txt",), url_list=True)
_OPEN_WEB_TEXT = HubFiles(
    "Skylion007/openwebtext",
    "parquet",
    ("plain_text/*train/*.parquet",),
    branch="refs/convert/parquet",
    substitute_for="the Pile's OpenWebText2, removed upstream",
)
_OPEN_WEB_MATH = HubFiles("open-web-math/open-web-math", "parquet", ("data/*.parquet",))
_GITHUB_CODE = HubFiles(
    "codeparrot/github-code-clean",
    "parquet",
    ("all-all/*train/*.parquet",),
    text_field="code",
    branch="refs/convert/parquet",
)

_ROWS = (
    Source("pile-arxiv", "academic", _pile("ArXiv"), "scikit-learn docstrings"),
    Source(
        "pile-pubmed",
        "academic",
        _pile("PubMed Central", "PubMed Abstracts"),
        "scipy.stats docstrings",
    ),
    Source("pile-philpapers", "academic", _pile("PhilPapers"), "networkx docstrings"),
    Source("dolma-pes2o", "academic", _PES2O, "scipy and numpy docstrings"),
    Source(
        "wanjuan-cc",
        "web",
        _fineweb("WanJuan-CC, which has no hub id"),
        "package descriptions and documentation",
    ),
    Source("redpajama-wiki", "wiki", _WIKIPEDIA, "Python's documentation topics"),
    Source("pile-openwebtext2", "web", _OPEN_WEB_TEXT, "prefect and datasets docstrings"),
    Source("pile-pg19", "books", _pg19(None), "licence texts"),
    Source(
        "redpajama-books",
        "books",
        _pg19("RedPajama's books, withdrawn"),
        "tutorials and long guides",
        note="takes what pile-pg19 leaves; too small for its share of 150B tokens without repetition",
    ),
    Source("open-web-math", "math", _OPEN_WEB_MATH, "sympy docstrings"),
    Source(
        "proof-pile-2",
        "math",
        _proof_pile("arxiv"),
        "mpmath docstrings",
        note="its arXiv part only: its other two parts are the rows beside it",
    ),
    Source("algebraic-stack", "math", _proof_pile("algebraic-stack"), "sympy sources"),
    Source("starcode-java", "code", _starcode("java"), "C++ headers"),
    Source("starcode-csharp", "code", _starcode("c-sharp"), "CUDA and C headers"),
    Source("starcode-typescript", "code", _starcode("typescript"), "Python type stubs"),
    Source(
        "starcode-remaining",
        "code",
        _starcode(*_OTHER_LANGUAGES),
        "Cython sources",
        note=f"{len(_OTHER_LANGUAGES)} of StarCoder's other languages",
    ),
    Source("github-code", "code", _GITHUB_CODE, "standard library sources"),
    Source(
        "fineweb",
        "web",
        _fineweb(None),
        "package descriptions and documentation",
        note="the 300M study's corpus (Appendix A.1); not a row of Table 4",
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ROWS}
