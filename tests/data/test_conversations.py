"""Rows of each form read alike; broken rows are counted, never lost silently."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from turbosparse.data.conversations import (
    BrokenRow,
    Conversation,
    Turn,
    parse_row,
    read_conversations,
)
from turbosparse.data.local_instructions import ANSWER_CHARACTERS, local_conversations, local_digest
from turbosparse.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

ADDITION = Conversation((Turn("user", "1 + 1?"), Turn("assistant", "2")))


@pytest.mark.parametrize(
    "row",
    [
        {"question": " 1 + 1?\n", "answer": "2"},
        {"id": "a", "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]},
        {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2 "}]},
    ],
    ids=["question", "bagel", "messages"],
)
def test_three_forms_give_the_same_conversation(row):
    assert parse_row(row) == ADDITION


def test_columns_of_other_forms_may_be_null():
    nulls = dict.fromkeys(("question", "answer", "conversations", "messages"))
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    bagel = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
    for given in ({"question": "1 + 1?", "answer": "2"}, {"conversations": bagel}, {"messages": turns}):
        assert parse_row(nulls | given) == ADDITION
    with pytest.raises(BrokenRow, match=r"^empty turn$"):
        parse_row(nulls)


def test_system_turn_may_come_first():
    row = {
        "conversations": [
            {"from": role, "value": role} for role in ("system", "human", "gpt", "human", "gpt")
        ]
    }
    roles = [turn.role for turn in parse_row(row).turns]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def _messages(*roles, content="x"):
    return {"messages": [{"role": role, "content": content} for role in roles]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "\ud800", "answer": "2"}, "invalid UTF-8"),
        ({"question": "1 + 1?", "answer": None}, "empty turn"),
        ({"text": "1 + 1 = 2"}, "unknown form"),
        ({}, "unknown form"),
        ({"messages": ["hello"]}, "unknown form"),
        ({"messages": []}, "no assistant turn"),
        (_messages("user", "tool", "assistant"), "unknown role"),
        (_messages("user", ["assistant"]), "unknown role"),
        (_messages("user", "assistant", content=" \n"), "empty turn"),
        (_messages("user", "assistant", content=None), "empty turn"),
        (_messages("user", "assistant", content=3), "content is not text"),
        (_messages("system", "user"), "no assistant turn"),
        (_messages("assistant", "user"), "wrong order"),
        (_messages("user", "user", "assistant"), "wrong order"),
        (_messages("user", "assistant", "user"), "wrong order"),
        (_messages("user", "assistant", "system"), "wrong order"),
    ],
)
def test_broken_row_says_why(row, reason):
    with pytest.raises(BrokenRow, match=f"^{reason}$"):
        parse_row(row)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "1 + 1?"', "not JSON"),
        (b'{"question": "\xff", "answer": "2"}', "not UTF-8"),
        (rb'{"question": "\ud800", "answer": "2"}', "invalid UTF-8"),
        (b'["question", "answer"]', "unknown form"),
        (b"", "empty file"),
    ],
)
def test_broken_line_is_counted_under_its_reason(line, reason, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line)
    (tmp_path / "b.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}')
    rejected: Counter[str] = Counter()
    assert list(read_conversations(tmp_path, rejected)) == [ADDITION]
    assert rejected == {reason: 1}


def test_reader_counts_broken_rows_and_yields_the_others(tmp_path):
    good, no_answer = json.dumps({"question": "1 + 1?", "answer": "2"}), json.dumps(_messages("user"))
    (tmp_path / "b.jsonl").write_text(f"{good}\n\n{no_answer}\n{good}")
    (tmp_path / "a.jsonl").write_text("no JSON\n" + no_answer)
    rejected: Counter[str] = Counter()
    assert list(read_conversations(tmp_path, rejected)) == [ADDITION, ADDITION]
    assert rejected == {"not JSON": 1, "no assistant turn": 2}


def test_nothing_usable_is_an_error_that_tells_the_reasons(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(_messages("user")))
    with pytest.raises(DataError, match="no assistant turn': 1"):
        list(read_conversations(tmp_path / "rows.jsonl"))
    for missing in (tmp_path / "none.jsonl", tmp_path / "none"):
        with pytest.raises(DataError, match="instructions"):
            read_conversations(missing)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared test data")
def test_real_rows_are_all_usable():
    rejected: Counter[str] = Counter()
    assert len(list(read_conversations(SHARED / "sft", rejected))) == 1027
    assert not rejected


def test_documentation_on_this_machine_makes_conversations():
    conversations = local_conversations()
    answers = [conversation.turns[1].content for conversation in conversations]
    shortest, longest = ANSWER_CHARACTERS
    assert len(conversations) >= 400
    assert len(set(answers)) == len(answers)
    assert all(shortest <= len(answer) <= longest for answer in answers)
    assert any(len(conversation.turns) == 4 for conversation in conversations)
    roots = {conversation.turns[0].content.split("`")[1].split(".")[0] for conversation in conversations}
    assert {"numpy"} < roots and len(roots & sys.stdlib_module_names) > 20
    for conversation in conversations:
        assert parse_row({"messages": conversation.messages}) == conversation
    assert local_conversations() == conversations
    assert local_digest() == local_digest()
