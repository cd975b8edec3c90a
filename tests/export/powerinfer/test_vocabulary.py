"""The engine's tokens are the tokenizer's, and so are the ids that it gives to text."""

import heapq
import json
import shutil
from itertools import pairwise

import pytest
from gguf_texts import TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from turbosparse.data.chat import add_chat_template
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.export.powerinfer.vocabulary import TokenType, engine_vocabulary

SPACE = "\u2581"


@pytest.fixture(scope="module")
def byte_fallback_tokenizer():
    """A tokenizer of SentencePiece's kind, as transformers converts Mistral's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    content = json.loads(tokenizer.to_str())
    del content["added_tokens"][3:]  # bytes are tokens like others
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    add_chat_template(found)
    return found


def merged_by_score(vocabulary, text):
    """Tokenizes as the engine does: the pair whose joined token has the highest score merges first."""
    ids = {token: id_ for id_, token in enumerate(vocabulary.tokens)}
    symbols = list((" " + text).replace(" ", SPACE))
    while True:
        pairs = [
            (-vocabulary.scores[ids[left + right]], place)
            for place, (left, right) in enumerate(pairwise(symbols))
            if left + right in ids
        ]
        if not pairs:
            break
        _, place = heapq.nsmallest(1, pairs)[0]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    found = []
    for symbol in symbols:
        pieces = [symbol] if symbol in ids else [f"<0x{byte:02X}>" for byte in symbol.encode()]
        found += [ids[piece] for piece in pieces]
    return found


def check_same_ids(tokenizer, vocabulary):
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert merged_by_score(vocabulary, text) == expected, text


def test_byte_level_tokens_keep_their_ids_and_the_rest_is_unused(tokenizer):
    vocabulary = engine_vocabulary(tokenizer, 320)
    assert vocabulary.kind == "gpt2"
    for token, id_ in tokenizer.get_vocab().items():
        assert vocabulary.tokens[id_] == token
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == 320
    assert vocabulary.types[302:] == [TokenType.UNUSED] * 18
    assert [vocabulary.types[id_] for id_ in (0, 1, 2, 300, 301)] == [
        TokenType.UNKNOWN,
        *[TokenType.CONTROL] * 4,
    ]
    assert vocabulary.types[tokenizer.convert_tokens_to_ids("a")] == TokenType.NORMAL
    assert vocabulary.special_ids == {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}
    assert "begin prompts with <s>" in vocabulary.notes[0]


def test_merges_are_the_tokenizers_in_their_order(tokenizer):
    merges = engine_vocabulary(tokenizer, 320).merges
    learnt = [pair.replace(" ", "") for pair in merges]
    known = tokenizer.get_vocab()
    assert [known[token] for token in learnt] == sorted(known[token] for token in learnt)
    assert len(learnt) == 300 - 3 - 256 - sum(token.startswith("<extra_") for token in known)


def test_merging_by_score_gives_the_tokenizers_ids(byte_fallback_tokenizer):
    vocabulary = engine_vocabulary(byte_fallback_tokenizer, 704)
    assert vocabulary.kind == "llama"
    assert vocabulary.types[3:259] == [TokenType.BYTE] * 256
    check_same_ids(byte_fallback_tokenizer, vocabulary)


@pytest.mark.parametrize("name", ["checkpoints/stories260K", "tokenizers/mistral_v1"])
def test_merging_by_score_gives_sentencepiece_models_ids(name, tmp_path, shared_data):
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(shared_data / name / file, tmp_path / file)
    tokenizer = load_tokenizer(tmp_path)
    vocabulary = engine_vocabulary(tokenizer, len(tokenizer) + 62)
    assert vocabulary.kind == "llama"
    assert vocabulary.notes == []
    check_same_ids(tokenizer, vocabulary)


def test_tokens_of_the_users_own_are_not_control_tokens(tokenizer):
    copy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    copy.add_tokens([AddedToken("OWN", special=False)])
    vocabulary = engine_vocabulary(copy, 320)
    assert vocabulary.types[copy.convert_tokens_to_ids("OWN")] == TokenType.USER_DEFINED


def test_a_tokenizer_that_the_engine_has_not_is_refused():
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(DataError, match=r"Unigram.*byte fallback"):
        engine_vocabulary(PreTrainedTokenizerFast(tokenizer_object=unigram), 320)


def test_more_tokens_than_embedding_rows_are_refused(tokenizer):
    with pytest.raises(DataError, match=r"id 301.*vocab_size=300"):
        engine_vocabulary(tokenizer, 300)


def test_a_tokenizer_that_lacks_bytes_is_refused(byte_fallback_tokenizer):
    content = byte_fallback_tokenizer.backend_tokenizer.to_str().replace("<0x0A>", "<newline>")
    lacking = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(content))
    with pytest.raises(DataError, match="255 of them"):
        engine_vocabulary(lacking, 704)
