"""Text to token ids, equal to the tokenizer's own and several times faster.

BPE merges nothing across the ends of its pre-tokenizer's pieces, nor between two characters that no
merge joins. Words cut at such places have the same ids alone as in their text. So each distinct word is
encoded once, by the tokenizer's own model, and looked up from then on.
"""

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

MAX_WORDS = 2**18
"""Distinct words remembered, about 35 MB; one more empties the memory."""
MAX_WORD_CHARS = 64
"""Longer words, as in minified code, hardly ever return: they are encoded each time."""
SLICE_CHARS = 2**18
"""Characters cut into words at a time, which bounds what a long document takes."""
BATCH_TEXTS = 32
"""Texts that are encoded together where there is no faster way than the tokenizer's own."""
NUM_CHECKED_TEXTS = 8
NUM_CHECKED_CHARS = 10_000

# The insides of regex character classes. The tokenizers' regex engine and Python's know different
# versions of Unicode: these are letters, and not letters, in all of them; "spaces" are spaces in any.
LETTERS = "A-Za-zÀ-ÖØ-öø-ɏЀ-ҁぁ-ゖァ-ヺ一-龥가-힣"
SPACES = r"\s\u180e\u200b▁"
FOLLOWERS = frozenset(
    char
    for first, last in [(0, 0x7F), (0x2010, 0x2027), (0x3001, 0x3003), (0xFF01, 0xFF20)]
    for char in map(chr, range(first, last + 1))
    if not char.isalpha()
)

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cuts:
    """Where a tokenizer's text can be cut, and what its model is given of a word.

    Text can be cut between a character that is no space and " ", and between a letter and a follower.
    """

    followers: frozenset[str]
    pieces: Callable[[str], list[str]]
    """A word to the strings that the BPE model encodes."""
    wants_space: Callable[[str], bool]
    """Whether the tokenizer puts a space before the text."""

    def words(self) -> re.Pattern[str]:
        """Returns what matches one word after the other, and "" at the end of the text."""
        inner = f"[^{SPACES}{LETTERS}]*+"
        # The first alternative is a special case of the second, tried first because it is the most
        # frequent: 28 instead of 18 MB/s. The last one is for a letter before, say, a combining mark.
        return re.compile(
            rf"(?: ?[{LETTERS}]++| *+{inner}(?:(?! )[{SPACES}]++{inner})*+[{LETTERS}]*+)(?![^{self._class}])"
            rf"|[\s\S]+?(?:(?<=[^{SPACES}])(?= )|\Z)"
        )

    def places(self) -> re.Pattern[str]:
        """Returns what matches, with no width, where text can be cut."""
        return re.compile(rf"(?<=[^{SPACES}])(?= )|(?<=[{LETTERS}])(?=[{self._class}])")

    @property
    def _class(self) -> str:
        return re.escape("".join(sorted(self.followers)))


class Words(dict[str, bytes]):
    """Words to their ids' bytes; a new word is encoded by the tokenizer's model."""

    def __init__(self, model: models.BPE, pieces: Callable[[str], list[str]], typecode: str) -> None:
        super().__init__()
        self._model = model
        self._pieces = pieces
        self._typecode = typecode

    def __missing__(self, word: str) -> bytes:
        ids = [token.id for piece in self._pieces(word) for token in self._model.tokenize(piece)]
        encoded = array(self._typecode, ids).tobytes()
        if len(word) <= MAX_WORD_CHARS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = encoded
        return encoded


class Encoder:
    """Text to ids, equal to `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`.

    Byte-level BPE with GPT-2's or Llama 3's pre-tokenizer and sentencepiece BPE are encoded word by
    word; any other tokenizer, by itself in batches. The first texts are encoded by both; a difference
    is logged, and from then on the tokenizer encodes.
    """

    engine: Literal["words", "batched"]
    dtype: np.dtype[Any]
    """uint16 where the vocabulary allows it, else uint32."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self._tokenizer = tokenizer
        self._num_unchecked = NUM_CHECKED_TEXTS
        cuts = find_cuts(tokenizer.backend_tokenizer)
        self.engine = "batched" if cuts is None else "words"
        if cuts is not None:
            self._wants_space = cuts.wants_space
            self._split = cuts.words().findall
            self._next_place = cuts.places().search
            self._words = Words(tokenizer.backend_tokenizer.model, cuts.pieces, self.dtype.char)

    def encode(self, text: str) -> NDArray[Any]:
        """Returns the ids of one text [num_tokens], without BOS and EOS. A `</s>` in it is mere text."""
        if self.engine == "words" and self._num_unchecked:
            self._check(text[:NUM_CHECKED_CHARS])
        return self._by_words(text) if self.engine == "words" else self._by_tokenizer([text])[0]

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[Any]]:
        """Yields each document as BOS, its ids, EOS [num_tokens], in order."""
        bos = np.array([self._tokenizer.bos_token_id], self.dtype)
        eos = np.array([self._tokenizer.eos_token_id], self.dtype)
        texts = iter(texts)
        while batch := list(islice(texts, 1 if self.engine == "words" else BATCH_TEXTS)):
            rows = map(self.encode, batch) if self.engine == "words" else self._by_tokenizer(batch)
            for row in rows:
                yield np.concatenate([bos, row, eos])

    def _by_words(self, text: str) -> NDArray[Any]:
        encoded = bytearray()
        for part in self._slices(text):
            encoded += b"".join(map(self._words.__getitem__, self._split(part)))
        return np.frombuffer(encoded, self.dtype)

    def _slices(self, text: str) -> Iterator[str]:
        prefix = " " if self._wants_space(text) else ""
        start = 0
        while start < len(text):
            place = self._next_place(text, start + SLICE_CHARS)
            end = place.start() if place else len(text)
            yield prefix + text[start:end]
            prefix, start = "", end

    def _by_tokenizer(self, texts: list[str]) -> list[NDArray[Any]]:
        rows = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
        )["input_ids"]
        return [np.array(row, self.dtype) for row in rows]

    def _check(self, text: str) -> None:
        self._num_unchecked -= 1
        if not np.array_equal(self._by_words(text), self._by_tokenizer([text])[0]):
            logger.warning(
                "%s encodes a word differently alone than in its text; whole texts are encoded, slower",
                self._tokenizer.name_or_path or type(self._tokenizer).__name__,
            )
            self.engine = "batched"


def find_cuts(tokenizer: Tokenizer) -> Cuts | None:
    """Returns where the tokenizer's text can be cut, None where nothing is known of its kind."""
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    plain_bpe = (
        model["type"] == "BPE"
        and not model["dropout"]
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
        and all(token["special"] for token in content["added_tokens"])
    )
    if not plain_bpe:
        return None
    return _byte_level_cuts(tokenizer, content) or _sentencepiece_cuts(content)


def _byte_level_cuts(tokenizer: Tokenizer, content: dict[str, Any]) -> Cuts | None:
    """Returns the cuts of GPT-2's and Llama 3's pre-tokenizers.

    None of their pieces holds a space after something else, nor a follower after a letter. They look
    ahead only from a space, to see whether another follows, and no word ends in one but the last.
    """
    if content["normalizer"] or not _known_byte_level(content["pre_tokenizer"]):
        return None

    pre_tokenizer = tokenizer.pre_tokenizer

    def pieces(word: str) -> list[str]:
        if word.isascii() and word.removeprefix(" ").isalpha():
            return [word.replace(" ", "Ġ")]  # known to be one piece; the way below takes 2.3 times as long
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(word)]

    return Cuts(FOLLOWERS, pieces, wants_space=lambda _text: False)


def _known_byte_level(pre_tokenizer: dict[str, Any] | None) -> bool:
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return True
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return bool(pattern == LLAMA3_PATTERN)
    return False


def _sentencepiece_cuts(content: dict[str, Any]) -> Cuts | None:
    """Returns the cuts that no merge of a sentencepiece BPE reaches across, None without one at " "."""
    model = content["model"]
    wants_space = _space_before_text(content)
    if wants_space is None or model["ignore_merges"] or not model["byte_fallback"]:
        return None
    if not model["vocab"].keys() >= BYTE_PIECES or any(BYTE_PIECES & set(merge) for merge in model["merges"]):
        return None
    joined = {(left[-1], right[0]) for left, right in model["merges"]}
    if any(right == "▁" and not re.match(f"[{SPACES}]", left) for left, right in joined):
        return None
    after_letters = {right.replace("▁", " ") for left, right in joined if re.match(f"[{LETTERS}]", left)}
    return Cuts(FOLLOWERS - after_letters, lambda word: [word.replace(" ", "▁")], wants_space)


def _space_before_text(content: dict[str, Any]) -> Callable[[str], bool] | None:
    """Returns when the tokenizer puts "▁" first; None unless it writes " " as "▁" and does nothing else."""
    match content["normalizer"], content["pre_tokenizer"]:
        case None, {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": "never"}:
            return lambda _text: False
        case None, {"type": "Metaspace", "replacement": "▁", "split": False}:
            return lambda text: not text.startswith((" ", "▁"))
        case {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }, None:
            return lambda _text: True
    return None
