"""Conversations packed into training sequences, none of which sees another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from turbosparse.data.chat import IGNORED_LABEL, Encoded

NUM_OPEN_SEQUENCES = 64
"""Sequences that packing keeps open for a conversation that fits."""


@dataclass(frozen=True)
class Packed:
    """One training sequence: whole conversations, then padding; each array [sequence_length], int32.

    `position_ids` start at 0 for each conversation and for the padding. From that transformers 5 sees
    where attention must stop, provided that attention_mask is None and use_cache is False.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    num_tokens: int
    """Before the padding."""


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
            self.length,
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
