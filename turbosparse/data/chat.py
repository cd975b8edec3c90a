"""Conversations as token ids, with the assistant's words as labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turbosparse.data.chat_templates import ChatTemplate, template_named, template_with
from turbosparse.data.conversations import BrokenRow, Conversation
from turbosparse.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED_LABEL = -100
"""The label that PyTorch's cross-entropy leaves out."""
VOCAB_SIZE_MULTIPLE = 64


@dataclass(frozen=True)
class Encoded:
    """A conversation's tokens; `labels` repeat the supervised ones and are -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def add_chat_template(tokenizer: "PreTrainedTokenizerFast", name: str = "chatml") -> None:
    """Gives a tokenizer a chat template, and its tokens, right after the vocabulary.

    A tokenizer that knows the tokens already keeps their ids. End of text stays what it was.

    Raises:
        ConfigError: There is no template of that name.

    Reference: the released models speak ChatML.
    """
    from tokenizers import AddedToken  # noqa: PLC0415 - this module imports in no time without it

    assert tokenizer.bos_token is not None, "every conversation starts with it; load_tokenizer checks"
    template = template_named(name)
    markers = [AddedToken(marker, special=True, normalized=False) for marker in template.new_tokens]
    tokenizer.add_tokens(markers, special_tokens=True)
    tokenizer.chat_template = template.jinja


def padded_vocab_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Returns the embedding rows a model needs: all tokens, up to a multiple of 64 (32,002 → 32,064)."""
    return -(-len(tokenizer) // VOCAB_SIZE_MULTIPLE) * VOCAB_SIZE_MULTIPLE


def encode(conversation: Conversation, tokenizer: "PreTrainedTokenizerFast") -> Encoded:
    """Tokenizes a conversation as the tokenizer's chat template writes it, and labels the assistant's part.

    Supervised are the tokens of each assistant turn's content and the marker that ends it. The text is
    tokenized in one piece, so the ids are `apply_chat_template`'s own; labels follow from offsets.

    Raises:
        BrokenRow: a turn holds the text of a special token or of the template's own marks, which would
            be read as such.
        DataError: the tokenizer has no chat template of ours.
    """
    template = _template_of(tokenizer)
    _check_is_unmarked(conversation, template)
    text, content, supervised = _render(conversation, template, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special, labels = _special_ids(tokenizer), []
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if token in special and content[start]:
            raise BrokenRow("special token in a turn")
        is_learned = supervised[start] and supervised[max(start, end - 1)]
        labels.append(token if is_learned else IGNORED_LABEL)
    return Encoded(encoding["input_ids"], labels)


def truncate(encoded: Encoded, sequence_length: int) -> Encoded:
    """Returns at most the first `sequence_length` tokens.

    Raises:
        BrokenRow: nothing supervised would be left.
    """
    cut = Encoded(encoded.input_ids[:sequence_length], encoded.labels[:sequence_length])
    if all(label == IGNORED_LABEL for label in cut.labels):
        raise BrokenRow("nothing supervised within the sequence length")
    return cut


def _template_of(tokenizer: "PreTrainedTokenizerFast") -> ChatTemplate:
    template = template_with(tokenizer.chat_template)
    if template is None:
        raise DataError(
            "chat template",
            tokenizer.chat_template,
            "one that add_chat_template gave",
            "tune the model with one of these (finetune.chat_template)",
        )
    return template


def _check_is_unmarked(conversation: Conversation, template: ChatTemplate) -> None:
    if any(marker in turn.content for turn in conversation.turns for marker in template.markers):
        raise BrokenRow("chat template's mark in a turn")


def _render(
    conversation: Conversation, template: ChatTemplate, tokenizer: "PreTrainedTokenizerFast"
) -> tuple[str, bytearray, bytearray]:
    """Returns the text, and for each of its characters whether it is content, and supervised."""
    text, content, supervised = "", bytearray(), bytearray()
    for piece in template.pieces(conversation, tokenizer.bos_token, tokenizer.eos_token):
        text += piece.text
        content += bytes([piece.is_content]) * len(piece.text)
        supervised += bytes([piece.is_supervised]) * len(piece.text)
    return text, content, supervised


def _special_ids(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special - {tokenizer.unk_token_id}
