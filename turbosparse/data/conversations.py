"""Instruction rows of three common forms, read as one: a conversation of turns."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

from botocore.exceptions import BotoCoreError
from fsspec.core import url_to_fs

from turbosparse.config.uri import check_uri
from turbosparse.data.reading import FORMATS, Problem, read_rows
from turbosparse.data.reading_folder import Folder, ListedFile
from turbosparse.errors import DataError

Role = Literal["system", "user", "assistant"]

BAGEL_ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
COLUMNS = ("question", "answer", "conversations", "messages")
"""What the three forms are made of."""


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
    set_name: str = field(default="", compare=False)
    """The set that it came from: no part of what is said."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns in OpenAI's form, which chat templates take."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


@dataclass(frozen=True)
class RowFile:
    """A file of rows, and the set under whose name they are counted."""

    set_name: str
    uri: str
    """Path or fsspec URI of JSON lines (plain, gzip, zstd) or Parquet."""
    columns: tuple[str, ...] = COLUMNS
    """What is read of a Parquet file."""


class Broken(NamedTuple):
    """A row or a file that gives no conversation, and why."""

    reason: str
    where: str


def read_conversations(path: Path | str, rejected: Counter[str] | None = None) -> Iterator[Conversation]:
    """Yields the conversations of a file, or of every file of a folder in name order.

    Args:
        path: file or folder, or its fsspec URI.
        rejected: counts broken rows by reason while the rows are read; give one to see them.

    Raises:
        DataError: there is no such file, or, at the end, not one row was usable.
    """
    files = [RowFile(file.name, file.uri) for file in list_files(str(path))]
    return read_files(files, str(path), Counter() if rejected is None else rejected)


def list_files(place: str) -> list[ListedFile]:
    """Returns the file that lies there, or the folder's files of rows in name order.

    Raises:
        DataError: there is no such file, no folder of such files, or nobody to ask for them.
        ConfigError: the URI may not be opened.
    """
    if "://" in place:
        check_uri(place, "instructions")
    try:
        file_system, path = url_to_fs(place)
        # Another part of this process may have listed the folder before files were added.
        file_system.invalidate_cache()
        if file_system.isfile(path):
            return [ListedFile(PurePosixPath(path).name, place, int(file_system.size(path)))]
        folder = Folder(place) if file_system.isdir(path) else None
    except (ValueError, ImportError, OSError, BotoCoreError) as error:
        raise _no_files(place, f" ({error})") from error
    files = [file for name in folder.names() if (file := folder.find(name))] if folder else []
    if not files:
        raise _no_files(place)
    return files


def read_files(
    files: Iterable[RowFile],
    place: str,
    rejected: Counter[str],
    max_row_bytes: int = sys.maxsize,
    num_rows: Counter[str] | None = None,
    strict: bool = False,
) -> Iterator[Conversation]:
    """Yields the conversations of files, and counts what gives none.

    Args:
        files: in the order in which they are read.
        place: where they lie, for the error.
        rejected: counts rows that are no conversations, damaged files and empty ones by reason.
        max_row_bytes: longest line of JSON; longer ones are passed over without being held.
        num_rows: counts usable rows by set.
        strict: stops at the first row, damaged file or empty one that gives no conversation.

    Raises:
        DataError: a file has gone, strict reading met something broken, or, at the end, not one row
            was usable.
    """
    earlier, is_usable = rejected.copy(), False
    for file in files:
        for found in _read(file, max_row_bytes):
            if isinstance(found, Broken):
                if strict:
                    raise _refused_by_strict(found)
                rejected[found.reason] += 1
                continue
            is_usable = True
            if num_rows is not None:
                num_rows[file.set_name] += 1
            yield found
    if not is_usable:
        raise DataError(
            "instructions",
            place,
            f"at least one usable row; rejected: {dict(rejected - earlier)}",
            "give rows with question and answer, conversations [{from, value}] or messages [{role, content}]",
        )


def parse_row(values: Mapping[str, Any]) -> Conversation:
    """Returns the conversation in a row's columns, whichever of the three forms it has.

    Raises:
        BrokenRow: unknown form, unknown role, content is not text, empty turn, invalid UTF-8, no
            assistant turn, wrong order.
    """
    conversation = Conversation(tuple(_turns(values)))
    _check_order([turn.role for turn in conversation.turns])
    return conversation


def _no_files(place: str, why: str = "") -> DataError:
    forms = ", ".join("*" + suffix for suffix in FORMATS)
    return DataError(
        "instructions", place, f"a file of rows, or a folder of {forms}{why}", "give the path of such rows"
    )


def _refused_by_strict(broken: Broken) -> DataError:
    remedy = "repair or remove it, or have such rows counted with finetune.strict=false"
    expected = f"rows that are conversations (this one: {broken.reason})"
    return DataError("finetune.strict", broken.where, expected, remedy)


def _read(file: RowFile, max_row_bytes: int) -> Iterator[Conversation | Broken]:
    is_empty = True
    for row in read_rows(file.uri, file.columns, max_row_bytes):
        is_empty = False
        if isinstance(row, Problem):
            yield Broken(row.reason, row.where)
            continue
        try:
            yield replace(parse_row(row.values), set_name=file.set_name)
        except BrokenRow as reason:
            yield Broken(str(reason), row.where)
    if is_empty:
        yield Broken("empty file", file.uri)


def _turns(values: Mapping[str, Any]) -> list[Turn]:
    match values:
        # A table of several forms has nulls in the columns of those that a row does not have.
        case {"question": question, "answer": answer} if (question, answer) != (None, None):
            return [_turn("user", question), _turn("assistant", answer)]
        case {"conversations": [*turns]}:
            return [_turn_of(turn, "from", "value", BAGEL_ROLES) for turn in turns]
        case {"messages": [*turns]}:
            return [
                _turn_of(turn, "role", "content", {role: role for role in get_args(Role)}) for turn in turns
            ]
        case {"question": None, "answer": None}:
            raise BrokenRow("empty turn")
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
