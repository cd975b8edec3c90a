"""Instruction rows of three common forms, read as one: a conversation of turns."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from turbosparse.errors import DataError

Role = Literal["system", "user", "assistant"]

BAGEL_ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}


class BrokenRow(Exception):
    """A row that is no conversation; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Turn:
    """What one side says, without white space around it."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """At most one system turn, then user and assistant in turn; the assistant has the last word."""

    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns in OpenAI's form, which chat templates take."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


def read_conversations(path: Path, rejected: Counter[str] | None = None) -> Iterator[Conversation]:
    """Yields the conversations of a JSONL file, or of every *.jsonl of a folder in name order.

    Args:
        path: file or folder.
        rejected: counts broken rows by reason while the rows are read; give one to see them.

    Raises:
        DataError: there is no such file, or, at the end, not one row was usable.
    """
    return _read(_files(path), path, Counter() if rejected is None else rejected)


def parse_row(line: bytes | str) -> Conversation:
    """Returns the conversation in one JSON line, whichever of the three forms it has.

    Raises:
        BrokenRow: invalid JSON, invalid UTF-8, unknown form, unknown role, content is not text,
            empty turn, no assistant turn, wrong order.
    """
    try:
        row = json.loads(line.decode() if isinstance(line, bytes) else line)
    except UnicodeDecodeError as error:
        raise BrokenRow("invalid UTF-8") from error
    except json.JSONDecodeError as error:
        raise BrokenRow("invalid JSON") from error
    conversation = Conversation(tuple(_turns(row)))
    _check_order([turn.role for turn in conversation.turns])
    return conversation


def digest_of_rows(path: Path) -> str:
    """Returns the sha256 of the contents of a JSONL file, or of a folder's *.jsonl in name order.

    Raises:
        DataError: there is no such file.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as rows:
            digest.update(hashlib.file_digest(rows, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(
            "instructions", str(path), "a JSONL file, or a folder of *.jsonl", "give the path of such rows"
        )
    return files


def _read(files: list[Path], path: Path, rejected: Counter[str]) -> Iterator[Conversation]:
    usable = False
    for file in files:
        with file.open("rb") as lines:
            for line in filter(bytes.strip, lines):
                try:
                    conversation = parse_row(line)
                except BrokenRow as reason:
                    rejected[str(reason)] += 1
                else:
                    usable = True
                    yield conversation
    if not usable:
        raise DataError(
            "instructions",
            str(path),
            f"at least one usable row; rejected: {dict(rejected)}",
            "give rows with question and answer, conversations [{from, value}] or messages [{role, content}]",
        )


def _turns(row: Any) -> list[Turn]:
    match row:
        case {"question": question, "answer": answer}:
            return [_turn("user", question), _turn("assistant", answer)]
        case {"conversations": [*turns]}:
            return [_turn_of(turn, "from", "value", BAGEL_ROLES) for turn in turns]
        case {"messages": [*turns]}:
            return [
                _turn_of(turn, "role", "content", {role: role for role in get_args(Role)}) for turn in turns
            ]
    raise BrokenRow("unknown form")


def _turn_of(turn: Any, role_field: str, content_field: str, roles: Mapping[str, Role]) -> Turn:
    if not isinstance(turn, dict) or not {role_field, content_field} <= turn.keys():
        raise BrokenRow("unknown form")
    role = turn[role_field]
    if not isinstance(role, str) or role not in roles:
        raise BrokenRow("unknown role")
    return _turn(roles[role], turn[content_field])


def _turn(role: Role, content: Any) -> Turn:
    if content is not None and not isinstance(content, str):
        raise BrokenRow("content is not text")
    if not content or not content.strip():
        raise BrokenRow("empty turn")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise BrokenRow("invalid UTF-8")
    return Turn(role, content.strip())


def _check_order(roles: list[Role]) -> None:
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in spoken:
        raise BrokenRow("no assistant turn")
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BrokenRow("wrong order")
