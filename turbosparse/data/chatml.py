"""ChatML: its template, its tokens, and conversations as token ids with the assistant's words as labels.

Reference: the released models speak ChatML.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turbosparse.data.conversations import BrokenRow, Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED_LABEL = -100
"""The label that PyTorch's cross-entropy leaves out."""
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCAB_SIZE_MULTIPLE = 64


@dataclass(frozen=True)
class Encoded:
    """A conversation's tokens; `labels` repeat the supervised ones and are -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def add_chat_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Gives a tokenizer ChatML: its two tokens, right after the vocabulary, and the template.

    A tokenizer that knows the tokens already keeps their ids. End of text stays what it was.
    """
    from tokenizers import AddedToken  # noqa: PLC0415 - this module imports in no time without it

    assert tokenizer.bos_token is not None, "every conversation starts with it; load_tokenizer checks"
    markers = [AddedToken(marker, special=True, normalized=False) for marker in (TURN_START, TURN_END)]
    tokenizer.add_tokens(markers, special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE


def padded_vocab_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Returns the embedding rows a model needs: all tokens, up to a multiple of 64 (32,002 → 32,064)."""
    return -(-len(tokenizer) // VOCAB_SIZE_MULTIPLE) * VOCAB_SIZE_MULTIPLE


def encode(conversation: Conversation, tokenizer: "PreTrainedTokenizerFast") -> Encoded:
    """Tokenizes a conversation as the chat template writes it, and labels what the assistant says.

    Supervised are the tokens of each assistant turn's content and the marker that ends it. The text is
    tokenized in one piece, so the ids are `apply_chat_template`'s own; labels follow from offsets.

    Raises:
        BrokenRow: a turn holds the text of a special token, which would be read as one.
    """
    text, content, supervised = _render(conversation, tokenizer.bos_token)
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


def _render(conversation: Conversation, bos_token: str) -> tuple[str, bytearray, bytearray]:
    """Returns the ChatML text, and for each of its characters whether it is content, and supervised."""
    text, content, supervised = bos_token, bytearray(len(bos_token)), bytearray(len(bos_token))
    for turn in conversation.turns:
        header = f"{TURN_START}{turn.role}\n"
        text += f"{header}{turn.content}{TURN_END}\n"
        length, is_learned = len(turn.content), bytes([turn.role == "assistant"])
        content += bytes(len(header)) + b"\1" * length + bytes(len(TURN_END) + 1)
        supervised += bytes(len(header)) + is_learned * (length + len(TURN_END)) + bytes(1)
    return text, content, supervised


def _special_ids(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special - {tokenizer.unk_token_id}
