"""Instruction data: encoded conversations, packed into training sequences and written.

Reference: Section 5 of the paper, "SFT datasets".
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from turbosparse.data.chat import (
    IGNORED_LABEL,
    Encoded,
    add_chat_template,
    encode,
    padded_vocab_size,
    truncate,
)
from turbosparse.data.conversations import BrokenRow, Conversation
from turbosparse.errors import DataError
from turbosparse.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUM_OPEN_SEQUENCES = 64
"""Sequences that packing keeps open for a conversation that fits."""


@dataclass(frozen=True)
class Packed:
    """One training sequence: whole conversations, then padding; each field [sequence_length], int32.

    `position_ids` start at 0 for each conversation and for the padding. From that transformers 5 sees
    where attention must stop, provided that attention_mask is None and use_cache is False.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray


def pack(encoded: Iterable[Encoded], sequence_length: int, pad_token_id: int = 0) -> Iterator[Packed]:
    """Fills sequences with whole conversations, each into the fullest open sequence that has room.

    Where none has room and 64 are open, the fullest is closed. Each conversation must fit by itself.
    """
    still_open: list[_OpenSequence] = []
    for conversation in encoded:
        assert len(conversation.input_ids) <= sequence_length, "truncate before packing"
        room_for_it = sequence_length - len(conversation.input_ids)
        fitting = [sequence for sequence in still_open if sequence.length <= room_for_it]
        if not fitting:
            if len(still_open) == NUM_OPEN_SEQUENCES:
                fullest = max(still_open, key=lambda sequence: sequence.length)
                still_open.remove(fullest)
                yield fullest.close(sequence_length, pad_token_id)
            fitting = [_OpenSequence()]
            still_open += fitting
        max(fitting, key=lambda sequence: sequence.length).add(conversation)
    for sequence in still_open:
        yield sequence.close(sequence_length, pad_token_id)


def build_instructions(
    conversations: Iterable[Conversation],
    tokenizer_folder: Path,
    sequence_length: int,
    max_conversations: int,
    num_held_back: int,
    folder: Path,
    on_progress: OnProgress = ignore_progress,
    rejected: Counter[str] | None = None,
) -> dict[str, Any]:
    """Writes packed MDS shards, the chat tokenizer and the held-back conversations under `folder`.

    Duplicates are dropped and counted. Conversations come in the order of their hashes, so the same
    ones give the same files, whatever order they were read in.

    Args:
        conversations: e.g. `read_conversations(path, rejected)`.
        tokenizer_folder: Hugging Face tokenizer, with ChatML or without.
        sequence_length: tokens per packed sequence.
        max_conversations: conversations to train on at the most.
        num_held_back: conversations never trained on, for measuring predictors.
        folder: gets shards/, tokenizer/ and held_back.jsonl.
        on_progress: hears of the conversations encoded.
        rejected: the reader's counts by reason, which join the metrics.

    Returns:
        Metrics: num_conversations, num_sequences, num_tokens, num_supervised_tokens, padding_ratio,
        rejected {reason: n}, truncated, vocab_size, padded_vocab_size.

    Raises:
        DataError: no conversation is left to train on, or `load_tokenizer` refuses the tokenizer.
    """
    from turbosparse.data.tokenizer import load_tokenizer  # noqa: PLC0415 - imports transformers

    tokenizer = load_tokenizer(tokenizer_folder)
    add_chat_template(tokenizer)
    rejected = Counter() if rejected is None else rejected
    shuffled = _shuffled(conversations, rejected)
    usable = _usable(shuffled, tokenizer, sequence_length, rejected)
    held_back = [conversation for conversation, _ in islice(usable, num_held_back)]
    tally = _Tally(min(max_conversations, len(shuffled) - num_held_back), on_progress)
    fitted = tally.fit((encoded for _, encoded in islice(usable, max_conversations)), sequence_length)
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    num_sequences = _write_shards(pack(fitted, sequence_length, pad_token_id), folder / "shards")
    if not num_sequences:
        expected = f"more than {num_held_back} usable conversations; rejected: {dict(rejected)}"
        raise DataError("instructions", len(held_back), expected, "give more instruction rows")
    tokenizer.save_pretrained(folder / "tokenizer")
    _write_held_back(held_back, folder / "held_back.jsonl")
    return {
        "num_conversations": tally.num_conversations,
        "num_sequences": num_sequences,
        "num_tokens": tally.num_tokens,
        "num_supervised_tokens": tally.num_supervised_tokens,
        "padding_ratio": 1 - tally.num_tokens / (num_sequences * sequence_length),
        "rejected": dict(sorted(rejected.items())),
        "truncated": tally.truncated,
        "vocab_size": len(tokenizer),
        "padded_vocab_size": padded_vocab_size(tokenizer),
    }


@dataclass(eq=False)
class _OpenSequence:
    """A packed sequence that still takes conversations."""

    conversations: list[Encoded] = field(default_factory=list)
    length: int = 0

    def add(self, conversation: Encoded) -> None:
        self.conversations.append(conversation)
        self.length += len(conversation.input_ids)

    def close(self, sequence_length: int, pad_token_id: int) -> Packed:
        packed = Packed(
            np.full(sequence_length, pad_token_id, np.int32),
            np.full(sequence_length, IGNORED_LABEL, np.int32),
            np.arange(-self.length, sequence_length - self.length, dtype=np.int32),
        )
        start = 0
        for conversation in self.conversations:
            end = start + len(conversation.input_ids)
            packed.input_ids[start:end] = conversation.input_ids
            packed.labels[start:end] = conversation.labels
            packed.labels[start] = IGNORED_LABEL  # No loss crosses from one conversation to the next.
            packed.position_ids[start:end] = np.arange(end - start)
            start = end
        return packed


@dataclass
class _Tally:
    """Counts conversations on their way to training."""

    total: int
    on_progress: OnProgress
    num_conversations: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    truncated: int = 0

    def fit(self, encoded: Iterable[Encoded], sequence_length: int) -> Iterator[Encoded]:
        for conversation in encoded:
            fitted = truncate(conversation, sequence_length)
            self.num_conversations += 1
            self.num_tokens += len(fitted.input_ids)
            self.num_supervised_tokens += sum(label != IGNORED_LABEL for label in fitted.labels)
            self.truncated += len(conversation.input_ids) > sequence_length
            if self.num_conversations % 100 == 0:
                self.on_progress(
                    Progress("instructions", self.num_conversations, self.total, "conversations")
                )
            yield fitted


def _shuffled(conversations: Iterable[Conversation], rejected: Counter[str]) -> list[Conversation]:
    by_digest: dict[bytes, Conversation] = {}
    for conversation in conversations:
        digest = hashlib.sha256(json.dumps(conversation.messages).encode()).digest()
        rejected.update(["duplicate"] if digest in by_digest else [])
        by_digest[digest] = conversation
    return [by_digest[digest] for digest in sorted(by_digest)]


def _usable(
    conversations: Iterable[Conversation],
    tokenizer: "PreTrainedTokenizerFast",
    sequence_length: int,
    rejected: Counter[str],
) -> Iterator[tuple[Conversation, Encoded]]:
    for conversation in conversations:
        try:
            encoded = encode(conversation, tokenizer)
            truncate(encoded, sequence_length)
        except BrokenRow as reason:
            rejected[str(reason)] += 1
        else:
            yield conversation, encoded


def _write_shards(sequences: Iterable[Packed], folder: Path) -> int:
    from streaming import MDSWriter  # noqa: PLC0415 - takes seconds

    columns = dict.fromkeys(("input_ids", "labels", "position_ids"), "ndarray:int32")
    num_sequences = 0
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for sequence in sequences:
            writer.write(vars(sequence))
            num_sequences += 1
    return num_sequences


def _write_held_back(conversations: list[Conversation], path: Path) -> None:
    rows = [
        json.dumps({"messages": conversation.messages}, ensure_ascii=False) for conversation in conversations
    ]
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
