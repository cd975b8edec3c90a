"""Instruction data: conversations drawn, encoded, packed into training sequences and written.

Reference: Section 5 of the paper, "SFT datasets".
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbosparse.data.chat import (
    IGNORED_LABEL,
    Encoded,
    add_chat_template,
    encode,
    padded_vocab_size,
    truncate,
)
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.cleaning.words import word_hashes
from turbosparse.data.conversation_store import ConversationStore
from turbosparse.data.conversations import BrokenRow, Conversation
from turbosparse.data.pack import Packed, pack
from turbosparse.errors import ConfigError, DataError
from turbosparse.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Usable = Iterator[tuple[Conversation, Encoded]]


@dataclass(frozen=True)
class InstructionPlan:
    """What becomes of conversations."""

    sequence_length: int
    """Tokens per packed sequence."""
    max_conversations: int
    """Conversations to train on at the most."""
    num_held_back: int
    """Conversations never trained on, for choosing and measuring."""
    chat_template: str = "chatml"
    """Name of the template that writes them."""
    mixture: Mapping[str, float] | None = None
    """Percent of the tokens by set; none: every set as large as it is."""
    contamination: Contamination | None = None
    """What conversations must not contain; none: anything goes."""


def build_instructions(
    conversations: Iterable[Conversation],
    tokenizer_folder: Path,
    plan: InstructionPlan,
    folder: Path,
    on_progress: OnProgress = ignore_progress,
    rejected: Counter[str] | None = None,
) -> dict[str, Any]:
    """Writes packed MDS shards, the chat tokenizer and the held-back conversations under `folder`.

    Duplicates are dropped and counted. Conversations come in the order of their hashes, so the same
    ones give the same files, whatever order they were read in. A mixture's shares hold in every part of
    the data, and the first set to run out ends it. Memory does not grow with the conversations.

    Args:
        conversations: e.g. `read_conversations(path, rejected)`.
        tokenizer_folder: Hugging Face tokenizer, with the template's tokens or without.
        plan: sizes, template, mixture and decontamination.
        folder: gets shards/, tokenizer/ and held_back.jsonl.
        on_progress: hears of the conversations encoded.
        rejected: the reader's counts by reason, which join the metrics.

    Returns:
        Metrics: num_conversations, num_sequences, num_tokens, num_supervised_tokens, padding_ratio,
        set_token_ratio {set: fraction}, rejected {reason: n}, truncated, vocab_size, padded_vocab_size.

    Raises:
        ConfigError: the mixture names a set that is not there, or there is no such template.
        DataError: no conversation is left to train on, or `load_tokenizer` refuses the tokenizer.
    """
    from turbosparse.data.tokenizer import load_tokenizer  # noqa: PLC0415 - imports transformers

    tokenizer = load_tokenizer(tokenizer_folder)
    add_chat_template(tokenizer, plan.chat_template)
    rejected = Counter() if rejected is None else rejected
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="shuffle-") as place:
        store = ConversationStore(conversations, Path(place))
        rejected.update({"duplicate": store.num_duplicates} if store.num_duplicates else {})
        usable = _drawn(store, tokenizer, plan, rejected)
        held_back = [conversation for conversation, _ in islice(usable, plan.num_held_back)]
        num_left = store.num_conversations.total() - plan.num_held_back
        tally = _Tally(min(plan.max_conversations, num_left), on_progress)
        fitted = tally.fit(islice(usable, plan.max_conversations), plan.sequence_length)
        pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        num_sequences = _write_shards(pack(fitted, plan.sequence_length, pad_token_id), folder / "shards")
    if not num_sequences:
        expected = f"more than {plan.num_held_back} usable conversations; rejected: {dict(rejected)}"
        raise DataError("instructions", len(held_back), expected, "give more instruction rows")
    tokenizer.save_pretrained(folder / "tokenizer")
    _write_held_back(held_back, folder / "held_back.jsonl")
    return {
        "num_conversations": tally.num_conversations,
        "num_sequences": num_sequences,
        "num_tokens": tally.num_tokens,
        "num_supervised_tokens": tally.num_supervised_tokens,
        "padding_ratio": 1 - tally.num_tokens / (num_sequences * plan.sequence_length),
        "set_token_ratio": tally.set_token_ratio(),
        "rejected": dict(sorted(rejected.items())),
        "truncated": tally.truncated,
        "vocab_size": len(tokenizer),
        "padded_vocab_size": padded_vocab_size(tokenizer),
    }


@dataclass
class _Tally:
    """Counts conversations on their way to training."""

    total: int
    on_progress: OnProgress
    num_conversations: int = 0
    num_supervised_tokens: int = 0
    truncated: int = 0
    set_tokens: Counter[str] = field(default_factory=Counter)

    @property
    def num_tokens(self) -> int:
        return self.set_tokens.total()

    def set_token_ratio(self) -> dict[str, float]:
        return {name: count / self.num_tokens for name, count in sorted(self.set_tokens.items())}

    def fit(self, usable: Usable, sequence_length: int) -> Iterator[Encoded]:
        for conversation, encoded in usable:
            fitted = truncate(encoded, sequence_length)
            self.num_conversations += 1
            self.set_tokens[conversation.set_name] += len(fitted.input_ids)
            self.num_supervised_tokens += sum(label != IGNORED_LABEL for label in fitted.labels)
            self.truncated += len(encoded.input_ids) > sequence_length
            if self.num_conversations % 100 == 0:
                self.on_progress(
                    Progress("instructions", self.num_conversations, self.total, "conversations")
                )
            yield fitted


def _drawn(
    store: ConversationStore,
    tokenizer: "PreTrainedTokenizerFast",
    plan: InstructionPlan,
    rejected: Counter[str],
) -> Usable:
    """Returns usable conversations in their order: of all sets, or by the mixture."""
    if plan.mixture is None:
        return _usable(store.read(), tokenizer, plan, rejected)
    if unknown := sorted(set(plan.mixture) - set(store.num_conversations)):
        known = ", ".join(sorted(store.num_conversations))
        raise ConfigError(
            "finetune.mixture", unknown[0], f"a set that has rows: {known}", "name one of these"
        )
    streams = {name: _usable(store.read(name), tokenizer, plan, rejected) for name in plan.mixture}
    return _mixed(streams, plan.mixture, plan.sequence_length)


def _mixed(streams: Mapping[str, Usable], mixture: Mapping[str, float], sequence_length: int) -> Usable:
    """Yields from the set that is furthest behind its share of the tokens, until that one has run out."""
    num_tokens = dict.fromkeys(streams, 0)
    while True:
        behind = min(streams, key=lambda name: num_tokens[name] / mixture[name])
        found = next(streams[behind], None)
        if found is None:
            return
        num_tokens[behind] += min(len(found[1].input_ids), sequence_length)
        yield found


def _usable(
    conversations: Iterable[Conversation],
    tokenizer: "PreTrainedTokenizerFast",
    plan: InstructionPlan,
    rejected: Counter[str],
) -> Usable:
    for conversation in conversations:
        try:
            _check_is_clean(conversation, plan.contamination)
            encoded = encode(conversation, tokenizer)
            truncate(encoded, plan.sequence_length)
        except BrokenRow as reason:
            rejected[str(reason)] += 1
        else:
            yield conversation, encoded


def _check_is_clean(conversation: Conversation, contamination: Contamination | None) -> None:
    if contamination is None:
        return
    text = "\n".join(turn.content for turn in conversation.turns)
    if (task := contamination.task_in(word_hashes(text))) is not None:
        raise BrokenRow(f"contains an item of {task}")


def _write_shards(sequences: Iterable[Packed], folder: Path) -> int:
    from streaming import MDSWriter  # noqa: PLC0415 - takes seconds

    columns = dict.fromkeys(("input_ids", "labels", "position_ids"), "ndarray:int32") | {"num_tokens": "int"}
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
