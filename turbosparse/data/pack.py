"""Passages of one source to fixed-length sequences in MDS shards."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import MDSWriter
from transformers import PreTrainedTokenizerFast

TOKENS = "tokens"
BATCH_PASSAGES = 32


@dataclass
class Packed:
    """What came of one source."""

    sequence_length: int
    num_wanted: int
    """Sequences of its share."""
    num_sequences: int = 0
    """Sequences on disk; the loader repeats them up to the share."""
    num_documents: int = 0
    """Passages that were tokenized."""
    num_bytes: int = 0
    num_tokens: int = 0
    num_tail_tokens: int = 0
    """Tokens of those passages that fill no further sequence, or are beyond the share."""

    @property
    def repetitions(self) -> float:
        """How often each sequence on disk is drawn in one epoch, on average."""
        if not self.num_wanted:
            return 0.0
        return self.num_wanted / self.num_sequences if self.num_sequences else math.inf


def pack_sequences(
    passages: Iterator[str],
    tokenizer: PreTrainedTokenizerFast,
    packed: Packed,
    out: Path,
    on_sequences: Callable[[int], None],
) -> None:
    """Writes up to `packed.num_wanted` sequences to `out`, and the figures to `packed`.

    Each passage is wrapped in BOS and EOS; they are concatenated and cut, so that a sequence may
    begin and end inside a passage. A sequence on disk is `tokens: [sequence_length]`, uint16 where
    the vocabulary allows it, else uint32.
    """
    if not packed.num_wanted:
        return
    length = packed.sequence_length
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    pending: NDArray[Any] = np.empty(0, dtype)
    with MDSWriter(out=str(out), columns={TOKENS: f"ndarray:{dtype.name}"}) as writer:
        while packed.num_sequences < packed.num_wanted:
            batch = list(islice(passages, BATCH_PASSAGES))
            if not batch:
                break
            pending = np.concatenate([pending, *_encoded(batch, tokenizer, dtype)])
            num_full = min(len(pending) // length, packed.num_wanted - packed.num_sequences)
            full, pending = np.split(pending, [num_full * length])
            for sequence in full.reshape(-1, length):
                writer.write({TOKENS: sequence})
            packed.num_documents += len(batch)
            packed.num_bytes += sum(len(text.encode()) for text in batch)
            packed.num_sequences += num_full
            packed.num_tokens += len(full)
            on_sequences(num_full)
    packed.num_tail_tokens = len(pending)


def _encoded(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, dtype: np.dtype[Any]
) -> list[NDArray[Any]]:
    """Encodes passages as BOS, their tokens, EOS. A `</s>` in the text itself is mere text."""
    rows = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)[
        "input_ids"
    ]
    return [np.array([tokenizer.bos_token_id, *row, tokenizer.eos_token_id], dtype) for row in rows]
