"""A tokenizer as PowerInfer's engine knows it: SentencePiece's kind of BPE, or GPT-2's."""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from gguf import GGUFValueType as Kind
from transformers import PreTrainedTokenizerFast

from turbosparse.data.tokenizer import NUM_BYTES
from turbosparse.errors import DataError
from turbosparse.export.powerinfer.gguf_file import Keys

BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(NUM_BYTES))
NO_BOS = (
    "tokenizer of GPT-2's kind: PowerInfer puts no BOS before a prompt; begin prompts with {bos} for the "
    "model's own output"
)
OTHER_CUTS = (
    "tokenizer of GPT-2's kind: PowerInfer leaves a sign no blank of the run before it, so indented code and "
    "lists become other tokens than the model was trained on"
)


class TokenType(IntEnum):
    """What the engine does with a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """One entry per row of the embedding."""

    kind: Literal["llama", "gpt2"]
    """`llama`: tokens merge by score; `gpt2`: tokens of byte-level characters merge by rank."""
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    """Of the `llama` kind: higher merges first. All zero in the other."""
    merges: list[str]
    chat_template: str | None
    special_ids: dict[str, int]
    """Of bos, eos, unknown and padding, where there is such a token."""
    notes: list[str]
    """What the engine does otherwise than the tokenizer."""

    def keys(self) -> Keys:
        """Returns the file's keys."""
        keys: Keys = {
            "tokenizer.ggml.model": (self.kind, Kind.STRING),
            "tokenizer.ggml.tokens": (self.tokens, Kind.ARRAY),
            "tokenizer.ggml.scores": (self.scores, Kind.ARRAY),
            "tokenizer.ggml.token_type": ([int(kind) for kind in self.types], Kind.ARRAY),
        }
        if self.kind == "gpt2":
            keys["tokenizer.ggml.merges"] = (self.merges, Kind.ARRAY)
        if self.chat_template is not None:
            keys["tokenizer.chat_template"] = (self.chat_template, Kind.STRING)
        for name, id_ in self.special_ids.items():
            keys[f"tokenizer.ggml.{name}_token_id"] = (id_, Kind.UINT32)
        return keys


def engine_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> Vocabulary:
    """Returns the tokenizer's entries, and unused ones up to `vocab_size`, the embedding's rows.

    Raises:
        DataError: The engine has no such tokenizer, or the embedding has too few rows.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = _kind(tokenizer, content)
    known = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    if max(known) >= vocab_size:
        expected = f"ids below vocab_size={vocab_size}, the embedding's rows"
        raise DataError("tokenizer", f"id {max(known)}", expected, "give the model's own tokenizer")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    _check_bytes(kind, known.values())
    tokens = [known.get(id_, f"<dummy_{id_}>") for id_ in range(vocab_size)]
    assert len(set(tokens)) == vocab_size, "the engine aborts on a token that is there twice"
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=[_type(tokenizer, known, id_, kind) for id_ in range(vocab_size)],
        scores=_scores(tokens, merges) if kind == "llama" else [0.0] * vocab_size,
        merges=merges if kind == "gpt2" else [],
        chat_template=tokenizer.chat_template,
        special_ids=_special_ids(tokenizer),
        notes=_notes(tokenizer, kind, content),
    )


def _kind(tokenizer: PreTrainedTokenizerFast, content: dict[str, Any]) -> Literal["llama", "gpt2"]:
    model = content["model"]
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return "llama"
    if model["type"] == "BPE" and "ByteLevel" in json.dumps(content.get("pre_tokenizer")):
        return "gpt2"
    expected = "BPE with byte fallback (SentencePiece's, as Mistral has it), or byte-level BPE (GPT-2's)"
    remedy = "export with --format hf: PowerInfer has no such tokenizer"
    raise DataError("tokenizer", f"{type(tokenizer).__name__}, model {model['type']}", expected, remedy)


def _type(
    tokenizer: PreTrainedTokenizerFast, known: dict[int, str], id_: int, kind: Literal["llama", "gpt2"]
) -> TokenType:
    token = known.get(id_)
    if token is None or token.startswith("<extra_"):
        return TokenType.UNUSED
    if id_ == tokenizer.unk_token_id:
        return TokenType.UNKNOWN
    if id_ in tokenizer.added_tokens_decoder:
        is_special = tokenizer.added_tokens_decoder[id_].special
        return TokenType.CONTROL if is_special else TokenType.USER_DEFINED
    return TokenType.BYTE if kind == "llama" and token in BYTE_TOKENS else TokenType.NORMAL


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Returns scores by which the engine merges in the order of `merges`.

    It merges the pair whose joined token has the highest score. What no merge makes has zero, as
    SentencePiece gives to control tokens and bytes.
    """
    rank: dict[str, int] = {}
    for place, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", ""), place)
    return [-float(rank[token]) if token in rank else 0.0 for token in tokens]


def _check_bytes(kind: str, tokens: Any) -> None:
    present = set(tokens)
    num_bytes = len(BYTE_TOKENS & present) if kind == "llama" else sum(len(token) == 1 for token in present)
    if num_bytes < NUM_BYTES:
        expected = f"a token for each of the {NUM_BYTES} bytes: PowerInfer ends at one that has none"
        raise DataError("tokenizer", f"{num_bytes} of them", expected, "export with --format hf")


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    return {name: id_ for name, id_ in ids.items() if id_ is not None}


def _notes(tokenizer: PreTrainedTokenizerFast, kind: str, content: dict[str, Any]) -> list[str]:
    if kind == "llama":
        return []
    notes = [NO_BOS.format(bos=tokenizer.bos_token), OTHER_CUTS]
    pre_tokenizer = content["pre_tokenizer"]
    if pre_tokenizer["type"] != "ByteLevel" or not pre_tokenizer.get("use_regex", True):
        notes.append("pre_tokenizer: PowerInfer cuts words by GPT-2's rule, this tokenizer by another")
    return notes
