"""What training is made of: each conversation once, sets in their shares, nothing that is evaluated."""

import json
import random
from collections import Counter

import pytest

from turbosparse.config import FinetuneConfig, PredictorConfig, validate
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.conversation_store import NUM_BUCKETS, ConversationStore
from turbosparse.data.conversations import Conversation, Turn, read_conversations
from turbosparse.data.instruction_rows import FolderRows
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import ConfigError, DataError

ITEM = "How many of the fourteen green bottles are still hanging on the wall after two of them fell"


def talk(question: str, answer: str = "yes", set_name: str = "") -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)), set_name)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([f"{ITEM}? yes, no, number 1234567890\n"] * 20, 300).save_pretrained(folder)
    return folder


def test_the_store_keeps_each_once_in_an_order_of_its_own(tmp_path):
    given = [talk(f"number {n}", set_name="ab"[n % 2]) for n in range(500)]
    orders = []
    for name, rows in (("one", [*given, *given[:7]]), ("two", random.Random(0).sample(given, 500))):
        (tmp_path / name).mkdir()
        store = ConversationStore(iter(rows), tmp_path / name)
        assert store.num_duplicates == len(rows) - 500
        assert store.num_conversations == Counter(a=250, b=250)
        orders.append(list(store.read()))
        assert [row for row in orders[-1] if row.set_name == "b"] == list(store.read("b"))
    assert orders[0] == orders[1]
    assert sorted(row.turns[0].content for row in orders[0]) == sorted(row.turns[0].content for row in given)
    assert orders[0] != given
    sizes = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "one").iterdir())]
    assert len(sizes) == NUM_BUCKETS
    assert max(sizes) < 30, "one bucket is in memory at a time: they must be alike"


def test_a_mixtures_shares_hold_until_a_set_runs_out(tokenizer_folder, tmp_path):
    rows = [talk(f"long number {n} " * 4, set_name="long") for n in range(60)]
    rows += [talk(f"{n}", set_name="short") for n in range(400)]
    plan = InstructionPlan(128, 10_000, 4, mixture={"long": 80, "short": 20})
    metrics = build_instructions(rows, tokenizer_folder, plan, tmp_path)
    assert metrics["set_token_ratio"] == pytest.approx({"long": 0.8, "short": 0.2}, abs=0.02)
    assert metrics["num_conversations"] < 460
    plain = build_instructions(rows, tokenizer_folder, InstructionPlan(128, 10_000, 4), tmp_path / "plain")
    assert plain["num_conversations"] == 456
    assert plain["set_token_ratio"]["short"] > 0.4
    assert not list(tmp_path.glob("shuffle-*"))


def test_a_set_that_is_not_there_is_refused(tokenizer_folder, tmp_path):
    plan = InstructionPlan(64, 10, 1, mixture={"nothing": 100})
    with pytest.raises(ConfigError, match=r"finetune\.mixture.*known"):
        build_instructions([talk("a", set_name="known")], tokenizer_folder, plan, tmp_path)


def test_conversations_with_an_evaluation_item_are_left_out_wherever_it_is(tokenizer_folder, tmp_path):
    contamination = Contamination({"gsm8k": [ITEM]})
    rows = [talk(f"number {n}") for n in range(20)]
    rows += [talk(f"Tell me. {ITEM.upper()}?"), talk("Ask me something", f"{ITEM}?"), talk("many bottles")]
    plan = InstructionPlan(256, 100, 2, contamination=contamination)
    metrics = build_instructions(rows, tokenizer_folder, plan, tmp_path)
    assert metrics["rejected"] == {"contains an item of gsm8k": 2}
    assert metrics["num_conversations"] == 19


BROKEN = {
    "unknown role": {"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]},
    "empty turn": {"question": "a", "answer": " "},
    "wrong order": {
        "conversations": [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "hello"}]
    },
    "no assistant turn": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_strict_reading_stops_at_the_row_and_names_it(reason, tmp_path):
    lines = [{"question": "a", "answer": "b"}, BROKEN[reason], {"question": "c", "answer": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rejected: Counter[str] = Counter()
    assert len(list(read_conversations(tmp_path, rejected))) == 2
    assert rejected == {reason: 1}
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2.*{reason}"):
        list(FolderRows(str(tmp_path)).conversations(Counter(), 10_000, strict=True))


def test_rows_know_their_set(tmp_path):
    (tmp_path / "maths.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    (row,) = FolderRows(str(tmp_path)).conversations(Counter(), 10_000)
    assert row.set_name == "maths.jsonl"


def test_a_mixture_must_be_whole():
    fields = {"num_steps": 2, "batch_size_sequences": 1, "learning_rate": 1e-3, "warmup_steps": 1}
    fields |= {"sequence_length": 64, "predictor": PredictorConfig(rank=8), "mixture": {"a": 60, "b": 30}}
    with pytest.raises(ConfigError, match="sum to 100"):
        validate(FinetuneConfig, fields, source="a test")
