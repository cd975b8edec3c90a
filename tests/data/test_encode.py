"""The encoder: ids equal to the tokenizer's own, whatever the text, and memory that stays bounded."""

import json
import random
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from turbosparse.data import encode
from turbosparse.data.encode import FOLLOWERS, LETTERS, LLAMA3_PATTERN, SPACES, Encoder, find_cuts
from turbosparse.data.installed_text import documentation_topics, files_of, written_text
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TORTURE = [
    "",
    " ",
    "▁",
    "   ",
    "\n",
    "\n\n \n",
    " ▁ ▁▁a▁b ▁",
    "a ",
    "a  \n",
    " a  b   c\t\td\r\n\r\n e\x0b\x0cf\x85g\u2028h\u00a0 i\u3000j\x1c k\u180e l\u200b m",
    "</s> <s>a</s>b<unk>",
    "<0x0A><0x41>",
    "it's IT'S 'sfoo 're it’s “so” – O'Neill'd 'ſ",
    "1 22 333 4444 55555a6b７８",
    "naïve cafe\u0301 e\u0301\u0301x élan Ünseen ǅ Привет, мир! Ѡ ѝ",
    "漢字。かな、カナ！한글？ 日本 語\n中文",
    "🙂🙃 👩‍👩‍👧 a🙂b \U0010ffff\ufffe\ufeffx",
    "def f(a, b):\n    if a:\n\t\treturn {'k': [a**2, b]}  # done\n\n\n",
    "const a=b?c(d):e;" * 50,
    "a" * 1000,
    " " * 1000 + "x",
    "\n" * 999 + "x",
]


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Real text and code of several kinds, each of up to 20,000 characters."""
    headers = files_of("torch", "torch/include/ATen", "*.h")
    stubs = files_of("numpy", "numpy", "*.pyi")
    texts = [written_text(file) for file in [*islice(headers, 12), *islice(stubs, 12)]]
    texts += islice(documentation_topics(), 24)
    for file in sorted((SHARED / "corpora").glob("*.jsonl")):
        with file.open() as lines:
            texts += [json.loads(line)["text"] for line in islice(lines, 12)]
    return [text[:20_000] for text in texts]


@pytest.fixture(scope="module")
def byte_level(documents) -> PreTrainedTokenizerFast:
    return train_tokenizer(documents, 4_000)


@pytest.fixture(scope="module")
def llama3(documents) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's pre-tokenizer, whole words first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3_000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def sentencepiece(documents) -> PreTrainedTokenizerFast:
    """Sentencepiece's BPE, as its folders load, with merges of this text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=3_000, show_progress=False))
    return _sentencepiece(list(map(tuple, json.loads(tokenizer.to_str())["model"]["merges"])))


@pytest.fixture(scope="module")
def mistral() -> PreTrainedTokenizerFast:
    return load_tokenizer(_present(SHARED / "tokenizers" / "mistral_v1"))


@pytest.fixture(scope="module")
def stories() -> PreTrainedTokenizerFast:
    return load_tokenizer(_present(SHARED / "checkpoints" / "stories260K"))


@pytest.fixture(params=["byte_level", "llama3", "sentencepiece", "mistral", "stories"])
def tokenizer(request) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


def test_real_text_has_the_tokenizer_s_ids(tokenizer, documents):
    _assert_equal(tokenizer, documents)


def test_odd_text_has_the_tokenizer_s_ids(tokenizer):
    _assert_equal(tokenizer, TORTURE)


def test_random_characters_have_the_tokenizer_s_ids(tokenizer):
    _assert_equal(tokenizer, _random_texts(400))


def test_slices_join_to_the_tokenizer_s_ids(tokenizer, documents, monkeypatch):
    monkeypatch.setattr(encode, "SLICE_CHARS", 7)
    _assert_equal(tokenizer, [*documents[::8], *TORTURE, *_random_texts(100)])


def test_few_remembered_words_change_no_ids(tokenizer, documents, monkeypatch):
    monkeypatch.setattr(encode, "MAX_WORDS", 50)
    monkeypatch.setattr(encode, "MAX_WORD_CHARS", 5)
    encoder = _assert_equal(tokenizer, documents[::8])
    assert len(encoder._words) <= 50
    assert max(map(len, encoder._words)) <= 5


def test_documents_are_wrapped_in_bos_and_eos_in_order(tokenizer):
    texts = ["One </s> two.", "", "Three"]
    rows = [row.tolist() for row in Encoder(tokenizer).encode_documents(iter(texts))]
    assert rows == [
        [tokenizer.bos_token_id, *_ids(tokenizer, text), tokenizer.eos_token_id] for text in texts
    ]


def test_ids_beyond_16_bits_are_kept():
    content = json.loads(_sentencepiece([("▁", "a")]).backend_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {f"<extra_{number}>": len(vocab) + number for number in range(2**16)}
    vocab["▁a"], vocab[f"<extra_{2**16 - 1}>"] = len(vocab) - 1, vocab["▁a"]
    encoder = _assert_equal(_fast(Tokenizer.from_str(json.dumps(content))), ["a b a"])
    assert encoder.dtype == np.uint32


def test_the_space_put_first_by_a_normalizer_comes_even_before_a_space(sentencepiece):
    content = json.loads(sentencepiece.backend_tokenizer.to_str())
    content["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    _assert_equal(_fast(tokenizer), TORTURE)


def test_no_space_is_put_first_where_the_tokenizer_puts_none(sentencepiece):
    content = json.loads(sentencepiece.backend_tokenizer.to_str())
    content["pre_tokenizer"]["prepend_scheme"] = "never"
    _assert_equal(_fast(Tokenizer.from_str(json.dumps(content))), TORTURE)


def test_a_piece_across_a_space_is_not_cut(documents):
    merges = [("o", "f"), ("▁", "of"), ("▁", "t"), ("▁of", "▁t"), ("▁of▁t", "h")]
    tokenizer = _sentencepiece(merges)
    assert "▁of▁th" in tokenizer.tokenize("end of the text")
    assert find_cuts(tokenizer.backend_tokenizer) is None
    _assert_equal(tokenizer, ["end of the text", *documents[:5]], engine="batched")


def test_a_piece_across_a_letter_and_a_dot_is_not_cut(documents):
    tokenizer = _sentencepiece([("▁", "a"), ("c", "."), ("t", "c.")])
    assert "tc." in tokenizer.tokenize("atc.b")
    encoder = _assert_equal(tokenizer, ["etc. and etc.", *documents[:5]])
    assert encoder._split("etc.x, etc, y") == ["etc.x,", " etc", ",", " y", ""]


def test_merges_of_bytes_are_not_taken_for_merges_of_characters():
    tokenizer = _sentencepiece([("▁", "a"), ("<0xC3>", "<0xA9>")])
    assert "<0xC3><0xA9>" in tokenizer.tokenize("é")
    _assert_equal(tokenizer, ["aé é"], engine="batched")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"].update(dropout=0.5),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content["model"].update(byte_fallback=False, unk_token="<unk>", fuse_unk=True),
        lambda content: content["added_tokens"][0].update(special=False),
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["pre_tokenizer"].update(split=True),
    ],
    ids=["dropout", "ignore_merges", "unknown characters fuse", "added token", "normalizer", "split"],
)
def test_what_words_would_encode_differently_is_left_to_the_tokenizer(sentencepiece, change):
    content = json.loads(sentencepiece.backend_tokenizer.to_str())
    change(content)
    assert find_cuts(Tokenizer.from_str(json.dumps(content))) is None


def test_byte_level_text_that_is_normalized_first_is_left_to_the_tokenizer(byte_level):
    content = json.loads(byte_level.backend_tokenizer.to_str())
    tokenizer = Tokenizer.from_str(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    assert find_cuts(tokenizer) is None


@pytest.mark.parametrize("model", ["unigram", "wordpiece"])
def test_other_tokenizers_encode_in_batches(model, documents):
    if model == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer, unk = trainers.UnigramTrainer, {"unk_token": "<unk>"}
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer, unk = trainers.WordPieceTrainer, {}
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        documents[:10], trainer(vocab_size=500, special_tokens=special, show_progress=False, **unk)
    )
    _assert_equal(_fast(tokenizer), [*documents[:40], *TORTURE], engine="batched")


def test_a_wrong_cut_is_noticed_and_the_tokenizer_takes_over(byte_level, monkeypatch, caplog):
    cuts = find_cuts(byte_level.backend_tokenizer)
    assert cuts is not None
    monkeypatch.setattr(cuts.__class__, "words", lambda self: re.compile(r"[\s\S]"))
    _assert_equal(byte_level, ["The same text.", "and more of it"], engine="batched")
    assert "encodes a word differently" in caplog.text


def test_characters_are_what_the_tokenizers_regex_engine_takes_them_for():
    characters = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    is_letter, is_space = re.compile(f"[{LETTERS}]"), re.compile(f"[{SPACES}]")

    def kept(outside: str) -> str:
        text: str = normalizers.Replace(Regex(outside), "").normalize_str(characters)
        return text

    assert set(is_letter.findall(characters)) <= set(kept(r"\P{L}+"))
    assert not FOLLOWERS & set(kept(r"\P{L}+"))
    assert set(kept(r"\S+")) <= set(is_space.findall(characters))


def _sentencepiece(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Returns a BPE with the bytes, the characters of the merges and what they make."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    for left, right in merges:
        pieces += [*(left + right), left + right] if not left.startswith("<0x") else [left + right]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}")
    return folder


def _assert_equal(tokenizer: PreTrainedTokenizerFast, texts: list[str], engine: str = "words") -> Encoder:
    """Encodes without the first texts' check, which would hide a difference, unless one is expected."""
    encoder = Encoder(tokenizer)
    if engine == "words":
        encoder._num_unchecked = 0
    for text in texts:
        ids = encoder.encode(text)
        assert ids.dtype == encoder.dtype
        assert ids.tolist() == _ids(tokenizer, text), repr(text[:80])
    wrapped = [row[1:-1].tolist() for row in encoder.encode_documents(texts)]
    assert wrapped == [_ids(tokenizer, text) for text in texts]
    assert encoder.engine == engine
    return encoder


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _random_texts(num: int) -> list[str]:
    rng = random.Random(0)
    alphabets = [
        " \n\ta.",
        "ab' .,\n",
        " ▁a\r\n\u00a0\x85é\u0301",
        "".join(c for text in TORTURE for c in text),
        "".join(map(chr, [*range(0x2400), *range(0x3000, 0x3100), *range(0xFE00, 0x10000)])),
        "".join(map(chr, range(0x10000, 0x110000, 37))),
    ]
    return ["".join(rng.choices(rng.choice(alphabets), k=rng.randrange(1, 120))) for _ in range(num)]
