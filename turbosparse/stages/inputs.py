"""What a run takes from outside the store: checked before anything is written, named by digest."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from turbosparse.config import PipelineConfig, Placement
from turbosparse.data.corpora import Corpora, open_corpora
from turbosparse.data.decontaminate import evaluation_digest
from turbosparse.data.sampled_corpora import SampledCorpora, samples_spec
from turbosparse.data.sources import source_named
from turbosparse.errors import ConfigError, DataError

MODEL_FILES = ("*.safetensors", "config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Inputs:
    """Digests or pinned revisions of a run's outside inputs."""

    corpora: str
    tokenizer: str | None
    """None: a tokenizer is trained on the corpora."""
    evaluation: str | None
    """What the corpora are decontaminated against; None: nothing."""
    source: str | None
    """None: the model starts here."""
    evaluated_model: str | None = None
    """Of a folder or a checkpoint that is evaluated in place of the run's own model."""


def digest_inputs(config: PipelineConfig, placement: Placement, corpora: Corpora) -> Inputs:
    """Reads and digests what the placement points to; asks the hub for the commits of what lies there.

    Instructions are digested where their stage asks for it: most runs don't need them.

    Raises:
        DataError: An unknown source, a path that holds nothing usable, or a hub that can't be reached.
    """
    for name in config.data.mixture:
        source_named(name)
    tokenizer = tokenizer_folder(placement)
    return Inputs(
        corpora=corpora.digest(config.data.mixture),
        tokenizer=digest_folder(tokenizer, TOKENIZER_FILES) if tokenizer else None,
        evaluation=evaluation_digest(config.data, placement.evaluation_data),
        source=digest_folder(placement.source, MODEL_FILES) if placement.source else None,
    )


def open_run_corpora(config: PipelineConfig, placement: Placement) -> Corpora:
    """Opens the run's corpora; text that is still to be sampled is known by what decides it.

    Raises:
        TurboSparseError: They can't be opened, or there is no model to sample from.
    """
    data, source, tokenizer = config.data, placement.source, tokenizer_folder(placement)
    if data.corpora != "sampled":
        return open_corpora(data.corpora, placement.corpora, data.substitutes)
    if source is None or tokenizer is None:
        remedy = "give one with --source DIR (placement.source), or other data.corpora"
        raise ConfigError("data.corpora", "sampled", "an original model to sample from", remedy)
    digests = digest_folder(source, MODEL_FILES), digest_folder(tokenizer, TOKENIZER_FILES)
    return SampledCorpora(
        samples_spec(data.sampling, *digests), placement.root, Path(source).name, data.mixture
    )


def tokenizer_folder(placement: Placement) -> str | None:
    """Returns the tokenizer to use: the one given, else the source model's, else None."""
    return placement.tokenizer or placement.source


def digest_folder(folder: str, patterns: tuple[str, ...]) -> str:
    """Returns the sha256 over a folder's files of these patterns: names and contents.

    Raises:
        DataError: There are none.
    """
    try:
        paths = sorted(path for pattern in patterns for path in Path(folder).glob(pattern))
    except (OSError, ValueError) as error:
        raise DataError("folder", folder, "a folder", f"check the path ({error})") from error
    if not paths:
        raise DataError("folder", folder, f"one of {', '.join(patterns)}", "check the path")
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _digest_files(stamps)


@cache
def _digest_files(stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        with Path(name).open("rb") as file:
            digest.update(f"{Path(name).name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
