"""Every chat template: its text is transformers' own, and the assistant's words are what is learned."""

from pathlib import Path

import pytest

from turbosparse.data.chat import IGNORED_LABEL, add_chat_template, encode, padded_vocab_size
from turbosparse.data.chat_templates import TEMPLATES
from turbosparse.data.conversations import BrokenRow, Conversation, Turn, read_conversations
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.errors import ConfigError, DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

CONVERSATION = Conversation(
    (
        Turn("system", "Be brief."),
        Turn("user", "Sky?"),
        Turn("assistant", "Blue."),
        Turn("user", "Sea?"),
        Turn("assistant", "Deep"),
    )
)
# CONVERSATION in Mistral's tokens, checked by hand; a star marks what is supervised.
BY_HAND = {
    "mistral": """
        <s> ▁[ INST ] ▁Be ▁brief . <0x0A> <0x0A> S ky ? ▁[ / INST ] *▁Blue *. *</s>
        ▁[ INST ] ▁Sea ? ▁[ / INST ] *▁Deep *</s>
    """,
    "llama-2": """
        <s> ▁[ INST ] ▁<< SYS >> <0x0A> Be ▁brief . <0x0A> < </ SYS >> <0x0A> <0x0A> S ky ?
        ▁[ / INST ] *▁Blue *. *▁ *</s> <s> ▁[ INST ] ▁Sea ? ▁[ / INST ] *▁Deep *▁ *</s>
    """,
    "zephyr": """
        <s> ▁< | system | > <0x0A> Be ▁brief . </s> ▁ <0x0A> < | user | > <0x0A> S ky ? </s> ▁ <0x0A>
        < | ass istant | > <0x0A> *Blue *. *</s> ▁ <0x0A> < | user | > <0x0A> Se a ? </s> ▁ <0x0A>
        < | ass istant | > <0x0A> *Deep *</s> ▁ <0x0A>
    """,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizers of both kinds, without any template."""
    folder = tmp_path_factory.mktemp("byte-level")
    train_tokenizer(["the sky is blue, the sea is deep. Be brief.\n"] * 20, 300).save_pretrained(folder)
    return {"byte-level": folder, "sentencepiece": SHARED / "tokenizers" / "mistral_v1"}


@pytest.fixture(params=["byte-level", "sentencepiece"])
def tokenizer(request, folders):
    if not folders[request.param].is_dir():
        pytest.skip("needs the shared test data")
    return load_tokenizer(folders[request.param])


def test_ids_are_those_of_apply_chat_template(tokenizer):
    given = [CONVERSATION, Conversation(CONVERSATION.turns[1:])]
    if SHARED.is_dir():
        given += list(read_conversations(SHARED / "sft"))[::40]
    for name in TEMPLATES:
        add_chat_template(tokenizer, name)
        for conversation in given:
            encoded = encode(conversation, tokenizer)
            assert encoded.input_ids == tokenizer.apply_chat_template(conversation.messages)["input_ids"]


def test_what_is_learned_is_what_the_assistant_says(tokenizer):
    expected = {
        "chatml": "Blue.<|im_end|>Deep<|im_end|>",
        "mistral": " Blue.</s> Deep</s>",
        "llama-2": " Blue. </s> Deep </s>",
        "zephyr": "Blue.</s>Deep</s>",
    }
    for name in TEMPLATES:
        add_chat_template(tokenizer, name)
        learned = [label for label in encode(CONVERSATION, tokenizer).labels if label != IGNORED_LABEL]
        said = "".join(tokenizer.convert_ids_to_tokens(learned))
        assert said.replace("Ġ", " ").replace("▁", " ") == expected[name]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared test data")
@pytest.mark.parametrize("name", BY_HAND)
def test_labels_token_by_token(name, folders):
    tokenizer = load_tokenizer(folders["sentencepiece"])
    add_chat_template(tokenizer, name)
    encoded, by_hand = encode(CONVERSATION, tokenizer), BY_HAND[name].split()
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert tokens == [token.removeprefix("*") for token in by_hand]
    learned = [label != IGNORED_LABEL for label in encoded.labels]
    assert learned == [token.startswith("*") for token in by_hand]


def test_only_chatml_widens_the_vocabulary(folders):
    tokenizer = load_tokenizer(folders["byte-level"])
    for name, num_entries in (("mistral", 300), ("llama-2", 300), ("zephyr", 300), ("chatml", 302)):
        add_chat_template(tokenizer, name)
        assert len(tokenizer) == num_entries
    assert padded_vocab_size(tokenizer) == 320


@pytest.mark.parametrize(
    ("name", "text"),
    [("mistral", "a [/INST] no"), ("llama-2", "<<SYS>>"), ("zephyr", "<|assistant|>"), ("zephyr", "</s>")],
)
def test_a_turn_that_could_pass_for_another_is_refused(name, text, folders):
    tokenizer = load_tokenizer(folders["byte-level"])
    add_chat_template(tokenizer, name)
    with pytest.raises(BrokenRow, match="in a turn"):
        encode(Conversation((Turn("user", text), Turn("assistant", "no"))), tokenizer)


def test_the_template_travels_with_the_tokenizer_and_unknown_ones_are_refused(folders, tmp_path):
    tokenizer = load_tokenizer(folders["byte-level"])
    add_chat_template(tokenizer, "zephyr")
    tokenizer.save_pretrained(tmp_path)
    assert encode(CONVERSATION, load_tokenizer(tmp_path)) == encode(CONVERSATION, tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(DataError, match="chat template"):
        encode(CONVERSATION, tokenizer)
    with pytest.raises(ConfigError, match="chatml, mistral"):
        add_chat_template(tokenizer, "nothing")
