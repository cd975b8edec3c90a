"""The texts of evaluation items, which a training document must not contain."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbosparse.errors import DataError

NOT_EVALUATED = ("fewshot", "train")
# Ids, labels and provenance: their values are no text, or text that is not the item's own.
FIELDS_WITHOUT_TEXT = {
    *("id", "ind", "idx", "index", "source", "source_id", "url", "license"),
    *("label", "labels", "answerKey", "split", "split_type"),
    *("type", "category", "subject", "activity_label"),
}
QUESTION_FIELDS = ("question", "question_stem", "goal", "ctx")
ANSWER_FIELDS = {
    *("answer", "correct_answer", "best_answer", "correct_answers"),
    *("choices", "endings", "sol1", "sol2", "mc1_targets", "mc2_targets"),
}
# "6 x 6 = <<6*6=36>>36" of GSM8K: copies are as often without the calculator's notes as with them.
_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
_BLANK = "_"

Item = Mapping[str, Any]
Texts = dict[str, list[str]]


@dataclass(frozen=True)
class HubSet:
    """The evaluated splits of one data set on the hub, under the ids that the harness uses."""

    task: str
    dataset: str
    configuration: str | None
    splits: tuple[str, ...]


# Both splits where the two are in use as evaluation sets.
HUB_SETS = (
    HubSet("arc_challenge", "allenai/ai2_arc", "ARC-Challenge", ("validation", "test")),
    HubSet("arc_easy", "allenai/ai2_arc", "ARC-Easy", ("validation", "test")),
    HubSet("boolq", "aps/super_glue", "boolq", ("validation",)),
    HubSet("gsm8k", "openai/gsm8k", "main", ("test",)),
    HubSet("hellaswag", "Rowan/hellaswag", None, ("validation",)),
    HubSet("lambada_openai", "EleutherAI/lambada_openai", "default", ("test",)),
    HubSet("mmlu", "cais/mmlu", "all", ("test",)),
    HubSet("openbookqa", "allenai/openbookqa", "main", ("validation", "test")),
    HubSet("piqa", "baber/piqa", None, ("validation",)),
    HubSet("sciq", "allenai/sciq", None, ("validation", "test")),
    HubSet("truthfulqa_generation", "truthfulqa/truthful_qa", "generation", ("validation",)),
    HubSet("truthfulqa_mc", "truthfulqa/truthful_qa", "multiple_choice", ("validation",)),
    HubSet("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", ("validation", "test")),
    HubSet("winogrande", "allenai/winogrande", "winogrande_xl", ("validation",)),
)


def evaluation_texts(folder: Path) -> Texts:
    """Returns the texts of each `*.jsonl` file of the folder, by the file's stem.

    Rows have the fields of the data sets on the hub. Files with `fewshot` or `train` in their names
    are left out: nothing is measured on them, and the sets' training splits are fair to train on.

    Raises:
        DataError: no such folder, no file of evaluation items in it, or a row that is no JSON object.
    """
    files = [
        file
        for file in sorted(folder.glob("*.jsonl"))
        if not any(word in file.stem for word in NOT_EVALUATED)
    ]
    if not files:
        raise DataError(
            "evaluation data",
            str(folder),
            "a folder of *.jsonl files, each an evaluation set in the hub's fields",
            "give the folder that holds such files, or set data.decontaminate to hub or off",
        )
    return {file.stem: _distinct_texts(_items(file)) for file in files}


def hub_evaluation_texts() -> Texts:
    """Returns the texts of `HUB_SETS`, downloaded through `datasets`, by task.

    Raises:
        DataError: a data set can't be had.
    """
    from datasets import load_dataset  # noqa: PLC0415 - seconds to import, and only the hub needs it

    texts = {}
    for hub in HUB_SETS:
        try:
            splits = [load_dataset(hub.dataset, hub.configuration, split=split) for split in hub.splits]
        except Exception as error:  # whatever the HTTP client or the builder of the day raises
            raise DataError(
                "evaluation set",
                hub.dataset,
                "one that can be reached",
                "check the network, or give the sets as files with data.decontaminate=folder",
            ) from error
        texts[hub.task] = _distinct_texts(row for split in splits for row in split)
    return texts


def digest_of_texts(texts: Mapping[str, Sequence[str]]) -> str:
    """Returns the sha256 of tasks and texts, in their order."""
    return hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest()


def item_texts(item: Item) -> Iterator[str]:
    """Yields every text by which an item can be recognised.

    These are all strings but those of `FIELDS_WITHOUT_TEXT`, however deeply nested; the question
    followed by each answer, as many are too short to be told apart by themselves; and sentences with
    a blank filled with either option.
    """
    for field, value in item.items():
        if field not in FIELDS_WITHOUT_TEXT:
            yield from _strings(value)
    question = next((item[field] for field in QUESTION_FIELDS if field in item), None)
    if question is not None:
        answers = [value for field, value in item.items() if field in ANSWER_FIELDS]
        yield from (f"{question} {answer}" for answer in _strings(answers))
    if {"sentence", "option1", "option2"} <= item.keys():
        yield from (item["sentence"].replace(_BLANK, item[option]) for option in ("option1", "option2"))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if "<<" in value:
            yield _CALCULATOR_NOTE.sub("", value)
    elif isinstance(value, Mapping):
        for field, inner in value.items():
            if field not in FIELDS_WITHOUT_TEXT:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _distinct_texts(items: Iterable[Item]) -> list[str]:
    texts = (text for item in items for text in item_texts(item))
    return list(dict.fromkeys(text for text in texts if text.strip()))


def _items(file: Path) -> Iterator[Item]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                item = json.loads(line)
            except ValueError:
                item = None
            if not isinstance(item, dict):
                raise DataError(
                    f"{file.name}, line {number}", line, "a JSON object", "repair or remove the line"
                )
            yield item
