"""The sources of the recovery corpus and the instruction sets: where each lies on the hub, its licence,
what may replace it where it is gone, and what stands in offline.

The order matters to whoever gives a document to the first source that has it: a source that shares
its data set with a later one (PG19 with the books, FineWeb with WanJuan-CC) comes first.

Reference:
    TurboSparse, Section 5 and Table 4.
"""

from dataclasses import dataclass
from typing import Literal

from turbosparse.errors import DataError

Category = Literal["academic", "web", "wiki", "books", "math", "code"]
Access = Literal["open", "gated", "withdrawn"]
"""`gated`: needs a token of an account that accepted the terms; `withdrawn`: not on the hub, any more or
at all."""

NOT_STATED = "not stated"
PER_DOCUMENT = "per document"


@dataclass(frozen=True)
class HubFiles:
    """Data files on the Hugging Face hub, read without running any script."""

    dataset: str
    """Data set id, `owner/name`."""
    builder: Literal["json", "parquet"]
    """JSON lines, compressed or not, or Parquet."""
    data_files: tuple[str, ...]
    """Globs under the data set's root; with `url_origins`, the text files that list the URLs."""
    text_field: str = "text"
    """Column that holds the document; instruction sets name their own."""
    configuration: str | None = None
    """The data set's own name of the part that is read, where it has several."""
    branch: str = "main"
    """Branch or tag that is resolved to a commit before reading."""
    filter_field: str | None = None
    """Dotted path of a column that decides whether a row belongs to the source."""
    filter_values: tuple[str, ...] = ()
    url_origins: tuple[str, ...] = ()
    """Servers (`https://host`) of files that the data set only lists; empty: its files are its own."""


@dataclass(frozen=True)
class Substitute:
    """Another data set, recorded here as the replacement of one that is gone."""

    hub: HubFiles
    licence: str
    why: str


@dataclass(frozen=True)
class Source:
    """One row of Table 4."""

    name: str
    paper_name: str
    category: Category
    hub: HubFiles | None
    """None: withdrawn."""
    licence: str
    """As publicly known of the data set; `per document` where its rows differ."""
    stand_in: str
    """Name of the local stand-in (see `local_corpora.STAND_INS`)."""
    access: Access = "open"
    substitute: Substitute | None = None
    note: str = ""


@dataclass(frozen=True)
class InstructionSet:
    """A data set of the paper's instruction tuning."""

    name: str
    hub: HubFiles
    columns: tuple[str, ...]
    """What a conversation is made of."""
    licence: str


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
    )


def _proof_pile(folder: str) -> HubFiles:
    return HubFiles("EleutherAI/proof-pile-2", "json", (f"{folder}/train/*.jsonl.zst",), configuration=folder)


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
_PES2O = HubFiles("allenai/peS2o", "json", ("data/v2/*.json.gz",), configuration="v2")
_FINEWEB = HubFiles(
    "HuggingFaceFW/fineweb", "parquet", ("sample/10BT/*.parquet",), configuration="sample-10BT"
)
_WIKIPEDIA = HubFiles(
    "togethercomputer/RedPajama-Data-1T",
    "json",
    ("urls/wikipedia.txt",),
    configuration="wikipedia",
    url_origins=("https://data.together.xyz",),
)
_OPEN_WEB_TEXT = HubFiles(
    "Skylion007/openwebtext",
    "parquet",
    ("plain_text/*train/*.parquet",),
    configuration="plain_text",
    branch="refs/convert/parquet",
)
_PG19 = HubFiles("emozilla/pg19", "parquet", ("data/train-*.parquet",))
_OPEN_WEB_MATH = HubFiles("open-web-math/open-web-math", "parquet", ("data/*.parquet",))
_GITHUB_CODE = HubFiles(
    "codeparrot/github-code-clean",
    "parquet",
    ("all-all/*train/*.parquet",),
    text_field="code",
    configuration="all-all",
    branch="refs/convert/parquet",
)
_PG19_LICENCE = "Apache-2.0, the books in the public domain in the USA"

_ROWS = (
    Source("pile-arxiv", "Pile-Arxiv", "academic", _pile("ArXiv"), PER_DOCUMENT, "scikit-learn docstrings"),
    Source(
        "pile-pubmed",
        "Pile-PubMed",
        "academic",
        _pile("PubMed Central", "PubMed Abstracts"),
        PER_DOCUMENT,
        "scipy.stats docstrings",
    ),
    Source(
        "pile-philpapers",
        "Pile-Philpapers",
        "academic",
        _pile("PhilPapers"),
        PER_DOCUMENT,
        "networkx docstrings",
    ),
    Source("dolma-pes2o", "Dolma_peS2o", "academic", _PES2O, "ODC-BY 1.0", "scipy and numpy docstrings"),
    Source(
        "wanjuan-cc",
        "Wanjuan-CC",
        "web",
        None,
        NOT_STATED,
        "package descriptions and documentation",
        access="withdrawn",
        substitute=Substitute(_FINEWEB, "ODC-BY 1.0", "filtered English Common Crawl too"),
        note="released by OpenDataLab; no copy on the hub is known",
    ),
    Source(
        "redpajama-wiki",
        "RedPajama-Wiki",
        "wiki",
        _WIKIPEDIA,
        "CC BY-SA 3.0",
        "Python's documentation topics",
    ),
    Source(
        "pile-openwebtext2",
        "Pile-OpenWebtext2",
        "web",
        None,
        NOT_STATED,
        "prefect and datasets docstrings",
        access="withdrawn",
        substitute=Substitute(_OPEN_WEB_TEXT, "CC0 1.0", "pages chosen the same way, by links on Reddit"),
        note="removed upstream",
    ),
    Source("pile-pg19", "Pile-PG19", "books", _PG19, _PG19_LICENCE, "licence texts"),
    Source(
        "redpajama-books",
        "RedPajama-books",
        "books",
        None,
        NOT_STATED,
        "tutorials and long guides",
        access="withdrawn",
        substitute=Substitute(_PG19, _PG19_LICENCE, "whole books in the public domain"),
        note="its substitute is pile-pg19's data set too, and too small for 9.8B tokens without repetition",
    ),
    Source("open-web-math", "Open-web-math", "math", _OPEN_WEB_MATH, "ODC-BY 1.0", "sympy docstrings"),
    Source(
        "proof-pile-2",
        "Proof-pile-2",
        "math",
        _proof_pile("arxiv"),
        PER_DOCUMENT,
        "mpmath docstrings",
        note="its arXiv part only: its other two parts are the rows beside it",
    ),
    Source(
        "algebraic-stack",
        "algebraic-stack",
        "math",
        _proof_pile("algebraic-stack"),
        PER_DOCUMENT,
        "sympy sources",
    ),
    Source(
        "starcode-java",
        "Starcode-Java",
        "code",
        _starcode("java"),
        PER_DOCUMENT,
        "C++ headers",
        access="gated",
    ),
    Source(
        "starcode-csharp",
        "Starcode-C#",
        "code",
        _starcode("c-sharp"),
        PER_DOCUMENT,
        "CUDA and C headers",
        access="gated",
    ),
    Source(
        "starcode-typescript",
        "Starcode-Typescript",
        "code",
        _starcode("typescript"),
        PER_DOCUMENT,
        "Python type stubs",
        access="gated",
    ),
    Source(
        "starcode-remaining",
        "Starcode-remaining",
        "code",
        _starcode(*_OTHER_LANGUAGES),
        PER_DOCUMENT,
        "Cython sources",
        access="gated",
        note=f"{len(_OTHER_LANGUAGES)} of StarCoder's other languages",
    ),
    Source("github-code", "GitHub-Code", "code", _GITHUB_CODE, PER_DOCUMENT, "standard library sources"),
    Source(
        "fineweb",
        "FineWeb",
        "web",
        _FINEWEB,
        "ODC-BY 1.0",
        "package descriptions and documentation",
        note="the 300M study's corpus (Appendix A.1); not a row of Table 4",
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ROWS}

_SETS = (
    InstructionSet(
        "orca-math-word-problems",
        HubFiles("microsoft/orca-math-word-problems-200k", "parquet", ("data/train-*.parquet",)),
        ("question", "answer"),
        "MIT",
    ),
    InstructionSet(
        "bagel",
        HubFiles("jondurbin/bagel-v0.5", "parquet", ("bagel-clean-v0.5.parquet",)),
        ("conversations",),
        "CC-BY-NC-4.0",
    ),
)
SFT_SETS: dict[str, InstructionSet] = {one.name: one for one in _SETS}
