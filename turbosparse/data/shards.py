"""Corpora to training data: held back, tokenized and packed, one MDS folder for each source."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from turbosparse.config.data import DataConfig
from turbosparse.data.corpora import Corpora
from turbosparse.data.mixture import allot_sequences
from turbosparse.data.pack import Packed, pack_sequences
from turbosparse.data.sources import SOURCES, source_named
from turbosparse.data.spool import Spool
from turbosparse.data.tokenizer import load_tokenizer, num_padding_entries, train_tokenizer
from turbosparse.errors import DataError
from turbosparse.progress import OnProgress, Progress

MIXTURE_NAME = "mixture.json"
HELD_BACK_NAME = "held_back.jsonl"
SHARDS_NAME = "shards"
TOKENIZER_NAME = "tokenizer"
# Enough text for a source's tokens whatever the tokenizer; no more is read.
BYTES_PER_TOKEN = 8
MIN_BYTES_PER_SOURCE = 1_000_000
TOKENIZER_TRAINING_BYTES = 100_000_000


def build_shards(
    config: DataConfig,
    corpora: Corpora,
    tokenizer_folder: str | None,
    folder: Path,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Builds the training corpus in `folder` and returns its figures.

    Writes `shards/<source>/` (MDS, one column `tokens` of `sequence_length` ids), `tokenizer/`,
    `held_back.jsonl` and `mixture.json`. A source that is too small has fewer sequences on disk
    than its share: the loader repeats them.

    Args:
        config: sources, proportions, lengths and seed.
        corpora: where documents come from.
        tokenizer_folder: a Hugging Face tokenizer; None trains one on the same documents.
        folder: empty folder to write to.
        on_progress: hears of sources read and of sequences written.

    Raises:
        DataError: an unknown source, one without documents, or one that would have to repeat more
            than `config.max_repetitions` times; an unusable tokenizer folder or corpus.
    """
    wanted = _wanted_sequences(config)
    packed = {source: Packed(config.sequence_length, count) for source, count in wanted.items()}
    given = load_tokenizer(tokenizer_folder) if tokenizer_folder is not None else None
    scratch = folder / ".spools"
    scratch.mkdir(parents=True)
    try:
        spools = _spools(config, corpora, list(packed), scratch, on_progress)
        held_back = {source: _num_held_back(len(spool), config) for source, spool in spools.items()}
        _write_held_back(folder / HELD_BACK_NAME, spools, held_back)
        tokenizer = given
        if tokenizer is None:
            tokenizer = train_tokenizer(_training_texts(config, spools, held_back), config.vocab_size)
        tokenizer.save_pretrained(folder / TOKENIZER_NAME)
        advance = _counter(sum(wanted.values()), on_progress)
        for source, spool in spools.items():
            passages = spool.read(held_back[source], len(spool))
            out = folder / SHARDS_NAME / source
            pack_sequences(passages, tokenizer, packed[source], out, advance)
            _check_repetitions(source, packed[source], config)
            advance(wanted[source] - packed[source].num_sequences)
    finally:
        shutil.rmtree(scratch)
    _write_mixture(folder / MIXTURE_NAME, config, packed)
    return {
        **_metrics(config, packed, tokenizer),
        "num_held_back_documents": held_back,
        "stand_ins": corpora.describe(packed),
    }


def _wanted_sequences(config: DataConfig) -> dict[str, int]:
    for name in config.mixture:
        source_named(name)
    mixture = {name: config.mixture[name] for name in SOURCES if name in config.mixture}
    return allot_sequences(mixture, config.num_tokens // config.sequence_length)


def _spools(
    config: DataConfig, corpora: Corpora, sources: list[str], folder: Path, on_progress: OnProgress
) -> dict[str, Spool]:
    spools = {}
    for number, source in enumerate(sources, start=1):
        wanted_bytes = config.num_tokens * config.mixture[source] / 100 * BYTES_PER_TOKEN
        max_bytes = max(int(wanted_bytes), MIN_BYTES_PER_SOURCE)
        spools[source] = Spool(folder / source, corpora.documents(source), config.seed, max_bytes)
        if not len(spools[source]):
            raise DataError(
                f"data.mixture.{source}",
                "no documents",
                "at least one that no other source has",
                "add text for this source, or take it out of the mixture",
            )
        on_progress(Progress("read corpora", number, len(sources), "sources"))
    return spools


def _num_held_back(num_documents: int, config: DataConfig) -> int:
    """The configured number, but about a tenth of a source with fewer than twice as many."""
    if num_documents >= 2 * config.num_held_back_documents:
        return config.num_held_back_documents
    return max(num_documents // 10, 1) if num_documents > 1 else 0


def _write_held_back(file: Path, spools: dict[str, Spool], held_back: dict[str, int]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for source, spool in spools.items():
            for text in spool.read(0, held_back[source]):
                stream.write(json.dumps({"source": source, "text": text}, ensure_ascii=False) + "\n")


def _training_texts(config: DataConfig, spools: dict[str, Spool], held_back: dict[str, int]) -> Iterator[str]:
    """Yields what the tokenizer learns from: all text, or a sample in the mixture's proportions."""
    for source, spool in spools.items():
        num_bytes_left = TOKENIZER_TRAINING_BYTES * config.mixture[source] / 100
        for text in spool.read(held_back[source], len(spool)):
            if num_bytes_left <= 0:
                break
            num_bytes_left -= len(text.encode())
            yield text


def _counter(total: int, on_progress: OnProgress) -> Callable[[int], None]:
    """Returns a function that adds sequences and reports how many there are."""
    done = 0

    def advance(num_sequences: int) -> None:
        nonlocal done
        done += num_sequences
        on_progress(Progress("pack", done, total, "sequences"))

    return advance


def _check_repetitions(name: str, packed: Packed, config: DataConfig) -> None:
    if packed.repetitions > config.max_repetitions:
        enough = int(config.num_tokens * config.max_repetitions / packed.repetitions)
        raise DataError(
            f"data.mixture.{name}",
            f"text for {packed.num_sequences} sequences, share of {packed.num_wanted}",
            f"at most {config.max_repetitions:g} repetitions (data.max_repetitions)",
            f"give more text for {name}, lower data.num_tokens to about {enough}, or raise the limit",
        )


def _write_mixture(file: Path, config: DataConfig, packed: dict[str, Packed]) -> None:
    sequences = {name: source.num_wanted for name, source in packed.items()}
    content = {"sequence_length": config.sequence_length, "sequences": sequences, "seed": config.seed}
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _metrics(
    config: DataConfig, packed: dict[str, Packed], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    num_sequences = sum(source.num_wanted for source in packed.values())
    num_encoded = sum(source.num_tokens + source.num_tail_tokens for source in packed.values())
    return {
        "token_ratio": {name: source.num_wanted / num_sequences for name, source in packed.items()},
        "num_tokens": num_sequences * config.sequence_length,
        "num_sequences": num_sequences,
        "documents": {name: source.num_documents for name, source in packed.items()},
        "bytes": {name: source.num_bytes for name, source in packed.items()},
        "bytes_per_token": sum(source.num_bytes for source in packed.values()) / num_encoded,
        "repetitions": {name: source.repetitions for name, source in packed.items()},
        "num_tail_tokens": {name: source.num_tail_tokens for name, source in packed.items()},
        "vocab_size": len(tokenizer),
        "num_padding_entries": num_padding_entries(tokenizer),
    }
