"""Text that was sampled from the original model, in place of every source of the mixture."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.config.levers import SamplingConfig
from turbosparse.data.digest import digest_of
from turbosparse.data.reading import Problem, SourceFile, read_texts
from turbosparse.data.sources import source_named
from turbosparse.errors import DataError

SAMPLES_NAME = "documents.jsonl"
SAMPLES_VERSION = 1
# Multiples of the golden ratio, modulo 1, are spread evenly over [0, 1) however many there are.
GOLDEN_RATIO = (5**0.5 - 1) / 2


def samples_spec(config: SamplingConfig, source_digest: str, tokenizer_digest: str) -> ArtifactSpec:
    """Returns what decides the sampled documents: the model, its tokenizer and the settings."""
    inputs = {"source": source_digest, "tokenizer": tokenizer_digest}
    return ArtifactSpec("samples", SAMPLES_VERSION, config.model_dump(mode="json"), {}, inputs)


@dataclass(frozen=True)
class SampledFile:
    """A source's share of the sampled documents."""

    source: str
    root: str
    samples: ArtifactSpec
    low: float
    high: float
    """Document number n is the source's where n times GOLDEN_RATIO, modulo 1, lies in [low, high)."""

    @property
    def name(self) -> str:
        """The artifact that holds the documents."""
        return f"{self.samples.name}/{SAMPLES_NAME}"

    @property
    def digest(self) -> str:
        """Digest of the sampling and of the share."""
        return digest_of([self.samples.identity, f"{self.low}–{self.high}"])

    def read(self, max_document_bytes: int) -> Iterator[str | Problem]:
        """Yields the share's documents.

        Raises:
            ArtifactError: They have not been sampled.
        """
        folder = Store(self.root).load(self.samples.name).folder()
        texts = read_texts(str(folder / SAMPLES_NAME), "text", max_document_bytes)
        for number, text in enumerate(texts):
            if self.low <= number * GOLDEN_RATIO % 1 < self.high:
                yield text


class SampledCorpora:
    """Documents of one model, dealt out to the mixture's sources by their percentages."""

    def __init__(self, samples: ArtifactSpec, root: str, model: str, mixture: Mapping[str, float]) -> None:
        """Opens what is, or will be, sampled.

        Args:
            samples: see `samples_spec`.
            root: the store that has it.
            model: the model's name, for people.
            mixture: percent by source.
        """
        self.samples = samples
        self._root = root
        self._model = model
        bounds = [0.0, *accumulate(percent / 100 for percent in mixture.values())]
        # Percentages may sum to 100.01: no document may be left to nobody, and none lies beyond 1.
        bounds[-1] = 1.0
        self._shares = dict(zip(mixture, pairwise(bounds), strict=True))

    def files(self, source: str) -> list[SourceFile]:
        """Returns the source's share.

        Raises:
            DataError: the mixture does not have the source.
        """
        if source not in self._shares:
            raise DataError("source", source, f"one of {', '.join(self._shares)}", "add it to data.mixture")
        return [SampledFile(source, self._root, self.samples, *self._shares[source])]

    def digest(self, sources: Iterable[str]) -> str:
        """Returns the sha256 over the sampling and the sources' shares."""
        asked = sorted(sources)
        return digest_of(f"{source} {file.digest}" for source in asked for file in self.files(source))

    def describe(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns, for each source, the model that its text is sampled from."""
        settings = self.samples.config
        text = f"sampled from {self._model} at temperature {settings['temperature']}, seed {settings['seed']}"
        return dict.fromkeys(sources, text)

    def substitutes(self, sources: Iterable[str]) -> dict[str, str]:
        """Returns each source with what its text stands in for."""
        asked = map(source_named, sources)
        return {each.name: f"text sampled from {self._model} instead of {each.paper_name}" for each in asked}

    def problems(self, sources: Iterable[str]) -> list[Problem]:  # noqa: ARG002 - as all corpora
        """Returns nothing: there are no files of the user's here."""
        return []
