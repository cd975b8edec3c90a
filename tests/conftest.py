"""Settings for all tests: libraries quiet and offline, Prefect at home in a temporary folder."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: spinning threads of two processes on two cores starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="turbosparse-prefect-")

pytest_plugins = ["s3_server", "s3_proxy", "fault_options"]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A real SwiGLU Llama of 260K parameters, where the test data is present."""
    folder = SHARED_DATA / "checkpoints" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the stories260K checkpoint")
    return folder


@dataclass(frozen=True)
class ListFile:
    """A source's documents from memory."""

    source: str
    texts: tuple[Any, ...]

    @property
    def name(self) -> str:
        return f"a list for {self.source}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((self.source, self.texts)).encode()).hexdigest()

    def read(self, max_document_bytes: int) -> Iterator[Any]:
        return iter(self.texts)


class ListCorpora:
    """Corpora from memory: documents by source, or by source and file."""

    def __init__(self, texts: dict[str, list[Any]]) -> None:
        self.texts = texts

    def files(self, source: str) -> list[ListFile]:
        texts = self.texts[source]
        several = texts and isinstance(texts[0], list)
        return [ListFile(source, tuple(part)) for part in (texts if several else [texts])]

    def digest(self, sources: Iterable[str]) -> str:
        return "".join(file.digest for source in sources for file in self.files(source))

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        return {source: f"a list for {source}" for source in sources}

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        return {}

    def problems(self, sources: Iterable[str]) -> list[Any]:
        return []


@pytest.fixture(scope="session")
def list_corpora() -> type[ListCorpora]:
    """Corpora of texts in memory."""
    return ListCorpora


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory) -> Callable[..., Any]:
    """Builds a corpus artifact from a configuration and texts by source."""

    def make(config, texts: dict[str, list[Any]], root: Path | str | None = None, **options) -> Any:
        # Imported here: most tests need none of it, and streaming takes seconds.
        from turbosparse.artifacts import ArtifactSpec, Store  # noqa: PLC0415
        from turbosparse.data.corpus import CorpusInputs, build_corpus  # noqa: PLC0415
        from turbosparse.progress import ignore_progress  # noqa: PLC0415
        from turbosparse.workers import map_inline  # noqa: PLC0415

        store = Store(str(root or tmp_path_factory.mktemp("store")))
        inputs = CorpusInputs(ListCorpora(texts), options.get("tokenizer"), options.get("evaluation_data"))
        on_progress = options.get("on_progress", ignore_progress)
        map_jobs = options.get("map_jobs", map_inline)
        digest = inputs.corpora.digest(texts)
        spec = ArtifactSpec("prepare", 1, config.model_dump(mode="json"), {}, {"corpora": digest})
        return store.produce(
            spec, lambda workspace: build_corpus(config, inputs, store, workspace, map_jobs, on_progress)
        )

    return make
