"""Chat templates by name: how each writes a conversation, and which of its text the assistant says.

Each template is there twice: as Jinja, which travels with the tokenizer, and as pieces of text, from
which the labels follow. Both give the same text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from turbosparse.data.conversations import Conversation, Turn
from turbosparse.errors import ConfigError

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


class Piece(NamedTuple):
    """Part of a conversation's text."""

    text: str
    is_content: bool = False
    """Whether it stems from the row, and not from the template."""
    is_supervised: bool = False
    """Whether the model learns to say it: the assistant's words, and what ends them."""


Pieces = Callable[[Conversation, str, str], Iterator[Piece]]
"""Writes a conversation with the tokenizer's beginning and end of text."""


@dataclass(frozen=True)
class ChatTemplate:
    """How conversations are written."""

    name: str
    jinja: str
    """For transformers' apply_chat_template."""
    pieces: Pieces
    new_tokens: tuple[str, ...] = ()
    """Special tokens that the vocabulary gets for it."""
    markers: tuple[str, ...] = ()
    """Plain text that structures the conversation: a turn that holds it could pass for another."""


def template_named(name: str) -> ChatTemplate:
    """Returns a template of the registry.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in TEMPLATES:
        raise ConfigError(
            "finetune.chat_template", name, f"one of {', '.join(TEMPLATES)}", "choose one of these"
        )
    return TEMPLATES[name]


def template_with(jinja: str | None) -> ChatTemplate | None:
    """Returns the template that a tokenizer carries; None for one that is not in the registry."""
    return next((template for template in TEMPLATES.values() if template.jinja == jinja), None)


def _chatml(conversation: Conversation, bos: str, eos: str) -> Iterator[Piece]:  # noqa: ARG001 - as all
    yield Piece(bos)
    for turn in conversation.turns:
        yield Piece(f"{TURN_START}{turn.role}\n")
        yield from _said(turn, TURN_END)
        yield Piece("\n")


def _zephyr(conversation: Conversation, bos: str, eos: str) -> Iterator[Piece]:
    yield Piece(bos)
    for turn in conversation.turns:
        yield Piece(f"<|{turn.role}|>\n")
        yield from _said(turn, eos)
        yield Piece("\n")


def _mistral(conversation: Conversation, bos: str, eos: str) -> Iterator[Piece]:
    yield Piece(bos)
    yield from _instructed(conversation, before=("", "\n\n"), answer_end=eos)


def _llama_2(conversation: Conversation, bos: str, eos: str) -> Iterator[Piece]:
    system = ("<<SYS>>\n", "\n<</SYS>>\n\n")
    yield from _instructed(conversation, before=system, answer_end=f" {eos}", round_start=bos)


def _instructed(
    conversation: Conversation, before: tuple[str, str], answer_end: str, round_start: str = ""
) -> Iterator[Piece]:
    """Writes rounds of [INST] … [/INST] and an answer; the system's words stand in the first one."""
    turns = list(conversation.turns)
    system = turns.pop(0) if turns[0].role == "system" else None
    for turn in turns:
        if turn.role == "user":
            yield Piece(f"{round_start}[INST] ")
            if system is not None:
                yield from (Piece(before[0]), Piece(system.content, is_content=True), Piece(before[1]))
                system = None
            yield Piece(turn.content, is_content=True)
            yield Piece(" [/INST]")
        else:
            # After the prompt's last character the model itself says the space.
            yield Piece(" ", is_supervised=True)
            yield from _said(turn, answer_end)


def _said(turn: Turn, end: str) -> Iterator[Piece]:
    is_learned = turn.role == "assistant"
    yield Piece(turn.content, is_content=True, is_supervised=is_learned)
    yield Piece(end, is_supervised=is_learned)


def _instructed_jinja(before: tuple[str, str], answer_end: str, start: str, round_start: str) -> str:
    return (
        "{% if messages[0]['role'] == 'system' %}"
        f"{{% set system = '{before[0]}' + messages[0]['content'] + '{before[1]}' %}}"
        "{% set turns = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        f"{start}{{% for message in turns %}}{{% if message['role'] == 'user' %}}{round_start}"
        "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
        f"{{% else %}}{{{{ ' ' + message['content'] + {answer_end} }}}}{{% endif %}}{{% endfor %}}"
    )


_ROLE_MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")
_INSTRUCTION_MARKERS = ("[INST]", "[/INST]")

TEMPLATES = {
    template.name: template
    for template in (
        ChatTemplate(
            "chatml",
            "{{ bos_token }}{% for message in messages %}"
            "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
            _chatml,
            new_tokens=(TURN_START, TURN_END),
        ),
        ChatTemplate(
            "mistral",
            _instructed_jinja(("", "\\n\\n"), "eos_token", "{{ bos_token }}", ""),
            _mistral,
            markers=_INSTRUCTION_MARKERS,
        ),
        ChatTemplate(
            "llama-2",
            _instructed_jinja(("<<SYS>>\\n", "\\n<</SYS>>\\n\\n"), "' ' + eos_token", "", "{{ bos_token }}"),
            _llama_2,
            markers=(*_INSTRUCTION_MARKERS, "<<SYS>>", "<</SYS>>"),
        ),
        ChatTemplate(
            "zephyr",
            "{{ bos_token }}{% for message in messages %}"
            "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
            _zephyr,
            markers=_ROLE_MARKERS,
        ),
    )
}
"""The released models speak ChatML; the others are as Mistral's, Llama 2's and Zephyr's models have them."""
