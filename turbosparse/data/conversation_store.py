"""Conversations on disk in the order of their digests: shuffled, and each there once, in little memory."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from turbosparse.data.conversations import Conversation, Turn

NUM_BUCKETS = 64
"""One bucket is in memory at a time: the paper's 1.1 million conversations take some 40 MB each."""


class ConversationStore:
    """Conversations of several sets, to be read in the order of their digests as often as is wanted.

    The order is as good as random, and the same whatever order they came in. Of equal conversations the
    first one stays.
    """

    num_conversations: Counter[str]
    """By set, duplicates apart."""
    num_duplicates: int
    """Conversations that were there already."""

    def __init__(self, conversations: Iterable[Conversation], folder: Path) -> None:
        """Writes the conversations to buckets by the first bits of their digests, and orders each."""
        self._folder = folder
        self.num_conversations, self.num_duplicates = Counter(), 0
        self._scatter(conversations)
        for bucket in range(NUM_BUCKETS):
            self._order(bucket)

    def read(self, set_name: str | None = None) -> Iterator[Conversation]:
        """Yields the conversations of one set, or of all."""
        for bucket in range(NUM_BUCKETS):
            for row in _rows(self._path(bucket)):
                if set_name in (None, row["set"]):
                    yield _conversation(row)

    def _scatter(self, conversations: Iterable[Conversation]) -> None:
        with ExitStack() as stack:
            files = [
                stack.enter_context(self._path(bucket).open("w", encoding="utf-8"))
                for bucket in range(NUM_BUCKETS)
            ]
            for conversation in conversations:
                messages = conversation.messages
                digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
                row = {"digest": digest, "set": conversation.set_name, "messages": messages}
                files[int(digest[:8], 16) * NUM_BUCKETS >> 32].write(json.dumps(row) + "\n")

    def _order(self, bucket: int) -> None:
        by_digest: dict[str, dict[str, Any]] = {}
        for row in _rows(self._path(bucket)):
            self.num_duplicates += row["digest"] in by_digest
            by_digest.setdefault(row["digest"], row)
        ordered = [by_digest[digest] for digest in sorted(by_digest)]
        self.num_conversations.update(row["set"] for row in ordered)
        self._path(bucket).write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:02}.jsonl"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _conversation(row: dict[str, Any]) -> Conversation:
    turns = tuple(Turn(message["role"], message["content"]) for message in row["messages"])
    return Conversation(turns, row["set"])
