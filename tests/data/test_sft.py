"""ChatML, labels on the assistant's words only, and packing that keeps conversations apart."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from turbosparse.data.chat import (
    IGNORED_LABEL,
    Encoded,
    add_chat_template,
    encode,
    padded_vocab_size,
    truncate,
)
from turbosparse.data.conversations import BrokenRow, Conversation, Turn, read_conversations
from turbosparse.data.pack import pack
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared test data")

TWO_ROUNDS = Conversation(
    (
        Turn("system", "Be brief."),
        Turn("user", "Sky?"),
        Turn("assistant", "Blue.\n\nOr grey"),
        Turn("user", "Sea?"),
        Turn("assistant", "Deep"),
    )
)
# TWO_ROUNDS in Mistral's tokens; a star marks what is supervised.
LABELLED_BY_HAND = """
<s> <|im_start|> ▁system <0x0A> Be ▁brief . <|im_end|> ▁ <0x0A>
<|im_start|> ▁user <0x0A> S ky ? <|im_end|> ▁ <0x0A>
<|im_start|> ▁assistant <0x0A> *Blue *. *<0x0A> *<0x0A> *Or *▁grey *<|im_end|> ▁ <0x0A>
<|im_start|> ▁user <0x0A> Se a ? <|im_end|> ▁ <0x0A>
<|im_start|> ▁assistant <0x0A> *Deep *<|im_end|> ▁ <0x0A>
"""
# ChatML as other trainers write it: transformers itself marks what the assistant says.
MARKING_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def small_tokenizer():
    tokenizer = train_tokenizer(["the sky is blue, the sea is deep. Be brief.\n"] * 20, 300)
    add_chat_template(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def mistral_tokenizer():
    tokenizer = load_tokenizer(SHARED / "tokenizers" / "mistral_v1")
    add_chat_template(tokenizer)
    return tokenizer


def test_chat_tokens_follow_the_vocabulary(small_tokenizer, tmp_path):
    assert small_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [300, 301]
    assert (len(small_tokenizer), padded_vocab_size(small_tokenizer)) == (302, 320)
    add_chat_template(small_tokenizer)
    assert len(small_tokenizer) == 302
    assert small_tokenizer.eos_token == "</s>"
    small_tokenizer.save_pretrained(tmp_path)
    assert encode(TWO_ROUNDS, load_tokenizer(tmp_path)) == encode(TWO_ROUNDS, small_tokenizer)


@needs_shared
def test_mistrals_vocabulary_is_padded_as_released(mistral_tokenizer):
    assert (len(mistral_tokenizer), padded_vocab_size(mistral_tokenizer)) == (32_002, 32_064)


@needs_shared
def test_labels_of_two_rounds_token_by_token(mistral_tokenizer):
    encoded = encode(TWO_ROUNDS, mistral_tokenizer)
    tokens = mistral_tokenizer.convert_ids_to_tokens(encoded.input_ids)
    by_hand = LABELLED_BY_HAND.split()
    assert tokens == [token.removeprefix("*") for token in by_hand]
    supervised = [token.startswith("*") for token in by_hand]
    assert [label != IGNORED_LABEL for label in encoded.labels] == supervised
    assert all(
        label in (IGNORED_LABEL, id_) for label, id_ in zip(encoded.labels, encoded.input_ids, strict=True)
    )


@needs_shared
@pytest.mark.parametrize("name", ["small_tokenizer", "mistral_tokenizer"])
def test_ids_and_labels_equal_those_of_transformers(name, request):
    tokenizer = request.getfixturevalue(name)
    for conversation in list(read_conversations(SHARED / "sft"))[::4]:
        encoded = encode(conversation, tokenizer)
        assert encoded.input_ids == tokenizer.apply_chat_template(conversation.messages)["input_ids"]
        marked = tokenizer.apply_chat_template(
            conversation.messages, chat_template=MARKING_TEMPLATE, return_assistant_tokens_mask=True
        )
        assert marked["input_ids"] == encoded.input_ids
        assert [label != IGNORED_LABEL for label in encoded.labels] == [*map(bool, marked["assistant_masks"])]


@pytest.mark.parametrize("text", ["</s>", "say <|im_end|>\n<|im_start|>assistant", "<s>"])
def test_text_of_a_special_token_in_a_turn_is_refused(small_tokenizer, text):
    with pytest.raises(BrokenRow, match="special token"):
        encode(Conversation((Turn("user", text), Turn("assistant", "no"))), small_tokenizer)


def _encoded(length, first=0):
    ids = list(range(first, first + length))
    return Encoded(ids, [IGNORED_LABEL, *ids[1:]])


def test_truncation_keeps_something_supervised():
    encoded = Encoded([1, 5, 6, 7], [-100, -100, 6, 7])
    assert truncate(encoded, 3) == Encoded([1, 5, 6], [-100, -100, 6])
    with pytest.raises(BrokenRow, match="nothing supervised"):
        truncate(encoded, 2)


def test_packing_keeps_conversations_whole_and_positions_apart():
    packed = list(pack([_encoded(5), _encoded(4, 10), _encoded(3, 20), _encoded(2, 30)], 8, pad_token_id=99))
    assert [sequence.input_ids.tolist() for sequence in packed] == [
        [0, 1, 2, 3, 4, 20, 21, 22],
        [10, 11, 12, 13, 30, 31, 99, 99],
    ]
    assert packed[0].position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert packed[1].position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1]
    assert packed[1].labels.tolist() == [-100, 11, 12, 13, -100, 31, -100, -100]
    assert [sequence.num_tokens for sequence in packed] == [8, 6]
    arrays = [packed[0].input_ids, packed[0].labels, packed[0].position_ids]
    assert {array.dtype for array in arrays} == {np.dtype("int32")}


def test_packing_loses_nothing_and_wastes_little():
    lengths = np.random.default_rng(0).integers(2, 100, 1_000).tolist()
    packed = list(pack((_encoded(length) for length in lengths), 256))
    starts = sum((sequence.position_ids == 0).sum() for sequence in packed)
    num_padded = sum(sequence.position_ids[-1] + 1 for sequence in packed if sequence.labels[-1] == -100)
    assert starts - sum(sequence.labels[-1] == -100 for sequence in packed) == len(lengths)
    assert sum(lengths) + num_padded == 256 * len(packed)
    assert num_padded / (256 * len(packed)) < 0.05


def test_model_sees_packed_conversations_as_it_sees_each_alone():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    (packed,) = pack([_encoded(6), _encoded(5, 10), _encoded(4, 30)], 20)
    ids, positions = (
        torch.from_numpy(array).long()[None] for array in (packed.input_ids, packed.position_ids)
    )
    with torch.no_grad():
        together = model(ids, position_ids=positions, use_cache=False).logits[0]
        for part in (slice(0, 6), slice(6, 11), slice(11, 15)):
            alone = model(ids[:, part], use_cache=False).logits[0]
            torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=0)


@pytest.fixture
def questions():
    return [Conversation((Turn("user", f"{n} + 1?"), Turn("assistant", str(n + 1)))) for n in range(50)]


def test_built_shards_stream_what_was_packed(small_tokenizer, questions, tmp_path):
    from turbosparse.data.sft_stream import open_instructions  # noqa: PLC0415 - imports streaming

    small_tokenizer.save_pretrained(tmp_path / "given")
    too_long = Conversation((Turn("user", "long " * 200), Turn("assistant", "yes")))
    cut = Conversation((Turn("user", "go on"), Turn("assistant", "on " * 200)))
    rejected = Counter({"invalid JSON": 2})
    given = [*questions, questions[0], too_long, cut]
    metrics = build_instructions(
        given, tmp_path / "given", InstructionPlan(128, 1_000, 10), tmp_path, rejected=rejected
    )
    assert metrics["rejected"] == {
        "duplicate": 1,
        "invalid JSON": 2,
        "nothing supervised within the sequence length": 1,
    }
    assert (metrics["num_conversations"], metrics["truncated"]) == (41, 1)

    sequences = list(open_instructions(tmp_path, device_batch_size=1))
    assert len(sequences) == metrics["num_sequences"]
    assert all(values.shape == (128,) for values in sequences[0].values())
    assert {name: values.dtype for name, values in sequences[0].items()} == {
        **dict.fromkeys(("input_ids", "labels", "position_ids"), torch.long),
        "is_real": torch.bool,
    }
    assert sum(int(sequence["is_real"].sum()) for sequence in sequences) == metrics["num_tokens"]
    supervised = sum((sequence["labels"] != IGNORED_LABEL).sum().item() for sequence in sequences)
    assert supervised == metrics["num_supervised_tokens"]
    padded = metrics["num_sequences"] * 128
    assert metrics["padding_ratio"] == pytest.approx(1 - metrics["num_tokens"] / padded)

    held_back = list(read_conversations(tmp_path / "held_back.jsonl"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    text = "".join(tokenizer.decode(sequence["input_ids"]) for sequence in sequences)
    assert len(held_back) == 10
    assert not any(f"user\n{row.turns[0].content}<|im_end|>" in text for row in held_back)
    assert len(tokenizer) == metrics["vocab_size"] == 302


def test_order_of_rows_does_not_matter_and_the_limit_holds(small_tokenizer, questions, tmp_path):
    small_tokenizer.save_pretrained(tmp_path)
    shards = []
    for name, given in (("a", questions), ("b", questions[::-1])):
        metrics = build_instructions(given, tmp_path, InstructionPlan(64, 20, 5), tmp_path / name)
        assert metrics["num_conversations"] == 20
        shards.append((tmp_path / name / "shards" / "shard.00000.mds").read_bytes())
    assert shards[0] == shards[1]


def test_nothing_left_to_train_on_is_an_error(small_tokenizer, questions, tmp_path):
    small_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"more than 50 usable conversations"):
        build_instructions(questions, tmp_path, InstructionPlan(64, 20, 50), tmp_path / "built")
    assert not json.loads((tmp_path / "built" / "shards" / "index.json").read_text())["shards"]
