"""What the training corpus is made of."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from turbosparse.config.base import Config
from turbosparse.config.levers import SamplingConfig
from turbosparse.config.quality import QualityConfig
from turbosparse.errors import ConfigError

# The paper gives one figure, 2.69%, for three Pile subsets; we split it evenly.
TABLE_4_PERCENT: dict[str, float] = {
    "pile-arxiv": 0.90,
    "pile-pubmed": 0.90,
    "pile-philpapers": 0.89,
    "dolma-pes2o": 7.83,
    "wanjuan-cc": 73.55,
    "redpajama-wiki": 0.65,
    "pile-openwebtext2": 0.44,
    "redpajama-books": 6.54,
    "pile-pg19": 0.37,
    "open-web-math": 1.46,
    "proof-pile-2": 0.76,
    "algebraic-stack": 0.54,
    "starcode-java": 0.77,
    "starcode-csharp": 0.74,
    "starcode-typescript": 0.52,
    "starcode-remaining": 1.73,
    "github-code": 1.41,
}


class DataConfig(Config):
    """The recovery corpus: where text comes from, in which proportions, and how it is cut."""

    corpora: Literal["hub", "local", "folder", "sampled"] = "hub"
    """`hub`: the sources' own data sets; `local`: text found on this machine, a named stand-in for
    each source; `folder`: JSONL files given by `placement.corpora`; `sampled`: text sampled from the model
    at `placement.source`, in place of every source."""
    sampling: SamplingConfig = SamplingConfig()
    """How text is sampled from the original model; used by `corpora: sampled` only."""
    mixture: dict[str, Annotated[float, Gt(0), Le(100)]] = Field(
        default_factory=lambda: dict(TABLE_4_PERCENT)
    )
    """Percent of the tokens by source; must sum to 100 (Table 4 of the paper by default)."""
    substitutes: Literal["none", "recorded"] | dict[str, str] = "none"
    """Whether a source that was withdrawn is replaced by the substitute the registry records
    (`recorded`), refused (`none`), or replaced source by source (`{source: recorded}`)."""
    num_tokens: Annotated[int, Gt(0)]
    """Tokens of one epoch, all sources together."""
    sequence_length: Annotated[int, Ge(16), Le(32_768)]
    """Tokens per training sequence."""
    max_repetitions: Annotated[float, Ge(1)] = 4.0
    """A source too small for its share is repeated at most this often."""
    on_shortage: Literal["refuse", "shrink"] = "refuse"
    """What happens where that is not enough: the build stops, or the whole epoch is made smaller
    until every source's repetitions are within the limit."""
    num_held_back_documents: Annotated[int, Ge(1)] = 8
    """Documents per source that are kept for evaluation and never trained on."""
    vocab_size: Annotated[int, Ge(300)] = 32_000
    """Entries of the BPE tokenizer trained on the corpora, unless a tokenizer folder is given."""
    near_duplicates: bool = True
    """Drops documents that are near-copies of earlier ones (MinHash over five-word shingles)."""
    decontaminate: Literal["off", "folder", "hub"] = "off"
    """Drops documents that share 13 words in a row with an evaluation item of Tables 6, 10 and 13
    or with WikiText-2: read from `placement.evaluation_data`, or from the hub."""
    quality: QualityConfig | None = None
    """Rules that a document's text must pass; none: no document is dropped for its quality."""
    strict: bool = False
    """Stops at the first row that can't be read; otherwise such rows are counted and reported."""
    max_document_bytes: Annotated[int, Ge(1_000)] = 64_000_000
    """Longer documents are counted as too long and left out."""
    group_bytes: Annotated[int, Ge(10_000)] = 256_000_000
    """Text that one coarse task cleans and tokenizes; an interruption costs at most the groups in
    flight."""
    collected_bytes_per_token: Annotated[float, Gt(0)] = 6.0
    """Text collected for each token of a source's share. English has about 4.5 bytes per token of a
    32,000-entry vocabulary; what is over serves later changes of the ratios."""
    seed: Annotated[int, Ge(0)] = 17
    """Chooses the documents that are held back."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        total = sum(self.mixture.values())
        if abs(total - 100.0) > 1e-6:
            raise ConfigError(
                "mixture",
                f"{len(self.mixture)} sources that sum to {total:g}",
                "percentages that sum to 100",
                "change one of the sources' percentages so that they do",
            )
        if self.num_tokens < self.sequence_length:
            raise ConfigError(
                "num_tokens",
                self.num_tokens,
                f"at least one sequence of {self.sequence_length} tokens",
                "raise num_tokens or lower sequence_length",
            )
        return self
