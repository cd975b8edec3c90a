"""Two lm-evaluation-harness tasks made from held-back text, for evaluation without network.

`local_cloze` asks for the last word of a passage, as LAMBADA does. `local_text` measures perplexity per
word and per byte, as the harness's WikiText task does.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from turbosparse.data.held_back import Document
from turbosparse.errors import DataError

LOCAL_TASKS = ("local_cloze", "local_text")

MAX_CLOZE_ITEMS = 64
PASSAGE_WORDS = (20, 60)
"""Fewest and most words of a cloze passage, its target included."""
PASSAGES_PER_DOCUMENT = 8
MAX_TEXT_ITEMS = 32
TEXT_CHARACTERS = (100, 600)
"""Fewest characters of a document to be measured, and where a longer one is cut."""

PLAIN_WORD = re.compile(r"[\"'(]?[A-Za-z][A-Za-z'’-]*[.,;:!?)\"']*")
TARGET = re.compile(r"([a-z]{4,})[.,;:!?]?")
FUNCTION_WORD = re.compile(
    "about|also|been|from|have|into|more|only|other|over|some|such|than|that|their|them|then|there|these|"
    "they|this|those|under|very|were|what|when|where|which|while|will|with|would|your"
)
"""Words that grammar gives away: no targets."""
PROSE_RATIO = 0.8
"""Share of plain words above which a passage counts as prose: code, tables and formulas fall below."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cloze:
    """A passage without its last word."""

    context: str
    target: str

    @property
    def recurs(self) -> bool:
        """Whether the passage has named its target already, so that attention can find it."""
        return re.search(rf"\b{self.target}\b", self.context, re.IGNORECASE) is not None


def make_local_task(name: str, documents: Sequence[Document], folder: Path) -> dict[str, Any]:
    """Writes a local task's items to folder/<name>.jsonl; the same documents give the same items.

    Args:
        name: one of LOCAL_TASKS.
        documents: what the items are made of, spread evenly over their sources.
        folder: gets the items, and the data set cache that the harness makes of them.

    Returns:
        The task's lm-evaluation-harness configuration.

    Raises:
        DataError: no item can be made of these documents.
    """
    items, scored = (
        (_cloze_items(documents), CLOZE_CONFIG)
        if name == "local_cloze"
        else (_text_items(documents), TEXT_CONFIG)
    )
    if not items:
        expected = f"held-back documents from which items for {name} can be made"
        raise DataError(
            "data", f"{len(documents)} documents", expected, "hold back more, or longer, documents"
        )
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
        **scored,
    }


def _metric(name: str, aggregation: str, *, higher_is_better: bool = False) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


CLOZE_CONFIG = {
    "output_type": "loglikelihood",
    "doc_to_text": "context",
    "doc_to_target": "{{' ' + target}}",  # the harness puts nothing between context and target
    "metric_list": [_metric("acc", "mean", higher_is_better=True), _metric("perplexity", "perplexity")],
}
TEXT_CONFIG = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [
        _metric("word_perplexity", "weighted_perplexity"),
        _metric("byte_perplexity", "weighted_perplexity"),
        _metric("bits_per_byte", "bits_per_byte"),
    ],
}


def _cloze_items(documents: Sequence[Document]) -> list[dict[str, str]]:
    """Takes sources in turn, and of each source the passages first that name their target before."""
    by_source: list[list[Cloze]] = []
    for texts in _texts_by_source(documents):
        passages = _in_turn(islice(_passages(text), PASSAGES_PER_DOCUMENT) for text in texts)
        by_source.append(sorted(passages, key=lambda cloze: not cloze.recurs))
    return [vars(cloze) for cloze in islice(_in_turn(by_source), MAX_CLOZE_ITEMS)]


def _text_items(documents: Sequence[Document]) -> list[dict[str, str]]:
    shortest, longest = TEXT_CHARACTERS
    texts = (text.strip() for text in _in_turn(_texts_by_source(documents)))
    return [
        {"text": _cut(text, longest)}
        for text in islice((t for t in texts if len(t) >= shortest), MAX_TEXT_ITEMS)
    ]


def _passages(text: str) -> Iterator[Cloze]:
    """Cuts a document's prose into passages of 20 to 60 words, each ending on a plain word."""
    fewest, most = PASSAGE_WORDS
    words = text.split()
    for start in range(0, len(words) - fewest + 1, most):
        passage = words[start : start + most]
        if sum(PLAIN_WORD.fullmatch(word) is not None for word in passage) < PROSE_RATIO * len(passage):
            continue
        endings = [_ending(passage[: length + 1]) for length in range(fewest - 1, len(passage))]
        candidates = [cloze for cloze in endings if cloze]
        if candidates:
            yield max(candidates, key=lambda cloze: (cloze.recurs, len(cloze.context)))


def _ending(words: list[str]) -> Cloze | None:
    target = TARGET.fullmatch(words[-1])
    if not target or FUNCTION_WORD.fullmatch(target[1]):
        return None
    return Cloze(" ".join(words[:-1]), target[1])


def _cut(text: str, longest: int) -> str:
    """The text's start, at most `longest` characters, without a broken last word."""
    if len(text) <= longest:
        return text
    return text[: longest + 1].rsplit(maxsplit=1)[0][:longest].rstrip()


def _texts_by_source(documents: Sequence[Document]) -> list[list[str]]:
    by_source: dict[str, list[str]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document.text)
    return list(by_source.values())


def _in_turn(groups: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """Yields the first of each group, then the second of each, and so on."""
    return (item for item in chain.from_iterable(zip_longest(*groups)) if item is not None)
