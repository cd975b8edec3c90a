"""A prepared corpus read again, sequence by sequence, and held against what it says of itself."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.format import reader_from_json

from turbosparse.artifacts import Manifest, StoreReader
from turbosparse.data.corpus import merge_index
from turbosparse.data.layout import INDEX_NAME, SHARDS_NAME, TOKENIZER_NAME, TOKENS
from turbosparse.data.mixture_files import MixtureRecord, read_mixture
from turbosparse.data.shard_index import read_shards
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError


@dataclass
class _Source:
    """What was read of one source."""

    num_sequences: int = 0
    num_documents: int = 0
    """Document beginnings: BOS tokens."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Sequences by length in tokens."""
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, tokens: NDArray[Any], bos_token_id: int) -> None:
        data = tokens.tobytes()
        self.num_sequences += 1
        self.num_documents += int((tokens == bos_token_id).sum())
        self.lengths[len(tokens)] += 1
        self.hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()))
        self.digest.update(data)

    def report(self) -> dict[str, Any]:
        distinct = len(np.unique(np.frombuffer(self.hashes, np.uint64)))
        return {
            "num_sequences": self.num_sequences,
            "num_tokens": sum(length * count for length, count in self.lengths.items()),
            "num_documents": self.num_documents,
            "sequence_lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "num_duplicate_sequences": self.num_sequences - distinct,
            "sha256": self.digest.hexdigest(),
        }


def verify_corpus(
    store: StoreReader, manifest: Manifest, on_group: Callable[[int, int], None]
) -> dict[str, Any]:
    """Reads every sequence of a prepared corpus.

    Args:
        store: where the corpus and its token groups are.
        manifest: the corpus's.
        on_group: hears (groups read, groups in all).

    Returns:
        For each source: num_sequences, num_tokens, num_documents, sequence_lengths,
        num_duplicate_sequences, sha256 of its tokens, drawn_ratio and wanted_ratio.

    Raises:
        ArtifactError: a file is missing, or is not what was committed.
        DataError: index, mixture and shards contradict each other.
    """
    folder = store.fetch(manifest)
    mixture = read_mixture(folder)
    groups = [store.load(name).manifest for name in manifest.components]
    _check_index(read_shards(folder / INDEX_NAME), merge_index(store, groups))
    bos_token_id = load_tokenizer(folder / TOKENIZER_NAME).bos_token_id
    sources = {source: _Source() for source in mixture.on_disk}
    names = (name for name, count in mixture.on_disk.items() for _ in range(count))
    for number, group in enumerate(groups, start=1):
        for tokens in _sequences(store, group):
            sources[_next(names, manifest)].add(tokens, bos_token_id)
        on_group(number, len(groups))
    if next(names, None) is not None:
        raise _contradiction(manifest, "fewer sequences")
    return _report(manifest, mixture, sources)


def _check_index(shards: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    if shards != expected:
        raise DataError(
            INDEX_NAME,
            f"{len(shards)} shards",
            f"the {len(expected)} shards of the corpus's groups, in their order",
            "prepare the corpus again",
        )


def _sequences(store: StoreReader, group: Manifest) -> Iterator[NDArray[Any]]:
    """Yields a group's sequences; its files are compared with their digests first."""
    folder = store.fetch(group) / SHARDS_NAME
    for shard in read_shards(folder / INDEX_NAME):
        reader = reader_from_json(str(folder), None, shard)
        for number in range(shard["samples"]):
            yield reader[number][TOKENS]


def _next(names: Iterator[str], manifest: Manifest) -> str:
    name = next(names, None)
    if name is None:
        raise _contradiction(manifest, "more sequences")
    return name


def _contradiction(manifest: Manifest, found: str) -> DataError:
    return DataError(manifest.name, found, "as many as mixture.json counts", "prepare the corpus again")


def _report(manifest: Manifest, mixture: MixtureRecord, sources: dict[str, _Source]) -> dict[str, Any]:
    num_drawn = sum(mixture.sequences.values())
    wanted = manifest.config["mixture"]
    if not sources.keys() <= wanted.keys():
        raise _contradiction(manifest, "other sources")
    return {
        "sequence_length": mixture.sequence_length,
        "sources": {
            source: {
                **found.report(),
                "drawn_ratio": mixture.sequences[source] / num_drawn,
                "wanted_ratio": wanted[source] / 100,
            }
            for source, found in sources.items()
        },
    }
