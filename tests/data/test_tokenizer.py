"""Tokenizers: what a trained one promises, and which folders can be used."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from turbosparse.data.tokenizer import load_tokenizer, num_padding_entries, train_tokenizer
from turbosparse.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TEXTS = ["The cat sat on the mat.", "The dog sat on the cat.", "def mat(cat):\n    return cat\n"] * 20
UNSEEN = "Ünseen  text\t– 漢字 🙂\n\n  indented </s> end"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300)


def test_special_tokens_have_the_first_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id == 2


def test_any_text_survives_encoding(tokenizer):
    ids = tokenizer(UNSEEN, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == UNSEEN
    assert not {0, 1, 2} & set(ids)


def test_encoding_begins_with_bos(tokenizer):
    assert tokenizer("cat")["input_ids"][0] == 1
    assert 1 not in tokenizer("cat", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("vocab_size", "padded"), [(259, False), (270, False), (2_000, True)])
def test_vocabulary_has_exactly_the_size_asked_for(vocab_size, padded):
    tokenizer = train_tokenizer(TEXTS, vocab_size)
    assert len(tokenizer) == vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))
    assert (num_padding_entries(tokenizer) > 0) == padded


def test_no_text_encodes_to_a_padding_entry():
    tokenizer = train_tokenizer(TEXTS, 2_000)
    ids = tokenizer("<extra_0> <extra_1>", add_special_tokens=False)["input_ids"]
    assert not {tokenizer.convert_tokens_to_ids(f"<extra_{number}>") for number in range(2)} & set(ids)


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(DataError, match="vocab_size"):
        train_tokenizer(TEXTS, 258)


def test_training_is_the_same_in_another_process(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "here")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_tokenizer import TEXTS; from turbosparse.data.tokenizer import train_tokenizer;"
        "train_tokenizer(TEXTS, 300).save_pretrained(sys.argv[2])"
    )
    arguments = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "there")]
    subprocess.run(arguments, check=True, env={"RAYON_NUM_THREADS": "1"})
    here, there = (tmp_path / name / "tokenizer.json" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_saved_tokenizer_loads_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded(UNSEEN)["input_ids"] == tokenizer(UNSEEN)["input_ids"]
    assert (loaded.bos_token_id, loaded.eos_token_id) == (1, 2)


@pytest.mark.parametrize("folder", ["tokenizers/mistral_v1", "checkpoints/stories260K"])
def test_sentencepiece_folders_load_and_save_as_fast_tokenizers(folder, tmp_path):
    if not (SHARED / folder).is_dir():
        pytest.skip("shared test data absent")
    original = load_tokenizer(SHARED / folder)
    original.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    text = "Once upon a time – 漢 there was\n  a girl."
    ids = load_tokenizer(tmp_path)(text)["input_ids"]
    assert ids == original(text)["input_ids"]
    assert ids[0] == 1
    assert original.decode(ids, skip_special_tokens=True) == text


def test_unusable_folders_are_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="existing folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(DataError, match="transformers can read"):
        load_tokenizer(tmp_path)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    tokenizer.bos_token = "<s>"
    with pytest.raises(DataError, match="BOS and EOS"):
        load_tokenizer(tmp_path)
