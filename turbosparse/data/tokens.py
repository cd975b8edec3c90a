"""A group of documents to fixed-length sequences of token ids in MDS shards."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import MDSWriter

from turbosparse.data.encode import Encoder
from turbosparse.data.groups import read_group
from turbosparse.data.layout import SHARD_HASH, SHARDS_NAME, TOKENS

BUFFERED_TOKENS = 1_000_000


def write_tokens(
    documents: Path,
    left_out: NDArray[np.int64],
    encoder: Encoder,
    sequence_length: int,
    folder: Path,
    on_sequences: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes a group's documents to `folder/shards` as sequences without padding.

    Each document is BOS, its tokens, EOS; documents are concatenated and cut, so that a sequence may
    begin and end inside one. Text never encodes to BOS: a BOS in a sequence is where a document
    begins (see `data.stream.document_positions`). A sequence is `tokens: [sequence_length]`, uint16 where the
    vocabulary allows it, else uint32.

    Args:
        documents: the group's folder.
        left_out: row numbers of documents that are duplicates or held back, ascending.
        encoder: the tokenizer.
        sequence_length: tokens per sequence.
        folder: where `shards/` is written.
        on_sequences: hears how many sequences were written since the last call.

    Returns:
        num_documents, num_bytes, num_tokens encoded, num_sequences, and num_tail_tokens: those at
        the group's end that fill no further sequence.
    """
    source = _Documents(documents, left_out)
    columns = {TOKENS: f"ndarray:{encoder.dtype.name}:{sequence_length}"}
    num_sequences = num_tokens = 0
    # Without `exist_ok` streaming refuses a folder; the store hands out an empty one.
    with MDSWriter(out=str(folder / SHARDS_NAME), columns=columns, hashes=[SHARD_HASH]) as writer:
        for block in _blocks(encoder.encode_documents(source), sequence_length):
            num_tokens += block.size
            full = block[: block.size // sequence_length * sequence_length]
            for sequence in full.reshape(-1, sequence_length):
                writer.write({TOKENS: sequence})
            num_sequences += full.size // sequence_length
            on_sequences(full.size // sequence_length)
    return {
        "num_documents": source.num_documents,
        "num_bytes": source.num_bytes,
        "num_tokens": num_tokens,
        "num_sequences": num_sequences,
        "num_tail_tokens": num_tokens - num_sequences * sequence_length,
    }


class _Documents:
    """A group's texts but for those left out, counted as they pass."""

    def __init__(self, folder: Path, left_out: NDArray[np.int64]) -> None:
        self._folder = folder
        self._left_out = set(left_out.tolist())
        self.num_documents = 0
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for number, text in read_group(self._folder):
            if number not in self._left_out:
                self.num_documents += 1
                self.num_bytes += len(text.encode())
                yield text


def _blocks(documents: Iterator[NDArray[Any]], sequence_length: int) -> Iterator[NDArray[Any]]:
    """Joins documents to blocks that are whole sequences long, the last one apart."""
    pending: list[NDArray[Any]] = []
    num_pending = 0
    for document in documents:
        pending.append(document)
        num_pending += len(document)
        if num_pending >= max(BUFFERED_TOKENS, sequence_length):
            joined = np.concatenate(pending)
            cut = len(joined) // sequence_length * sequence_length
            yield joined[:cut]
            pending, num_pending = [joined[cut:]], len(joined) - cut
    if num_pending:
        yield np.concatenate(pending)
