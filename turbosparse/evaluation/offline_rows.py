"""Items in a data folder: which file holds a task's, and which fields its rows must have."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbosparse.errors import DataError

Row = dict[str, Any]
ITEM_ENDINGS = ("", "_test", "_validation", "_val")
EXAMPLE_ENDINGS = ("_train", "_dev", "_fewshot", "_train_fewshot", "_fewshot_dev")


def _as_they_are(rows: list[Row]) -> list[Row]:
    return rows


@dataclass(frozen=True)
class OfflineTask:
    """How a task's rows look on the hub, and what their files may be called."""

    fields: Mapping[str, tuple[type, ...]]
    names: tuple[str, ...] = ()
    """Beginnings of file names, beside the task's own name."""
    prepare: Callable[[list[Row]], list[Row]] = _as_they_are
    """Makes the harness's rows of the files'."""

    def find(self, folder: Path, task: str, endings: Sequence[str]) -> Path | None:
        """Returns the folder's file of items or of examples; None where it has none."""
        candidates = (folder / name for name in self.file_names(task, endings))
        return next((file for file in candidates if file.is_file()), None)

    def file_names(self, task: str, endings: Sequence[str]) -> list[str]:
        """Returns what the file may be called."""
        return [f"{name}{ending}.jsonl" for name in (task, *self.names) for ending in endings]


def _labels(rows: list[Row]) -> list[Row]:
    """BoolQ's own `answer: bool` becomes SuperGLUE's `label: int`."""
    return [row if "label" in row else {**row, "label": int(row["answer"])} for row in rows]


def _pages(rows: list[Row]) -> list[Row]:
    """Joins lines into pages, which begin at headings of the first level, as the hub's own pages do."""
    if all("page" in row for row in rows):
        return rows
    pages: list[list[str]] = [[]]
    for row in rows:
        line = row["text"].removesuffix("\n")
        if _HEADING.fullmatch(line.replace("= = =", "===").replace("= =", "==").strip()):
            pages.append([])
        pages[-1].append(line)
    return [{"page": page} for page in map("\n".join, pages) if page.strip()]


_HEADING = re.compile(r"= .* =")
_CHOICES = {"choices": (dict,), "answerKey": (str,)}

OFFLINE_TASKS: dict[str, OfflineTask] = {
    "arc_challenge": OfflineTask({"question": (str,), **_CHOICES}),
    "arc_easy": OfflineTask({"question": (str,), **_CHOICES}),
    "boolq": OfflineTask({"passage": (str,), "question": (str,), "label|answer": (int, bool)}, (), _labels),
    "gsm8k": OfflineTask({"question": (str,), "answer": (str,)}),
    "gsm8k_cot": OfflineTask({"question": (str,), "answer": (str,)}, ("gsm8k",)),
    "hellaswag": OfflineTask(
        {"ctx_a": (str,), "ctx_b": (str,), "activity_label": (str,), "endings": (list,), "label": (str, int)}
    ),
    "lambada_openai": OfflineTask({"text": (str,)}),
    "mmlu": OfflineTask({"question": (str,), "subject": (str,), "choices": (list,), "answer": (int,)}),
    "openbookqa": OfflineTask({"question_stem": (str,), **_CHOICES}),
    "piqa": OfflineTask({"goal": (str,), "sol1": (str,), "sol2": (str,), "label": (int,)}),
    "sciq": OfflineTask(
        dict.fromkeys(
            ("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer"), (str,)
        )
    ),
    "truthfulqa_mc1": OfflineTask({"question": (str,), "mc1_targets": (dict,)}, ("truthfulqa_mc",)),
    "truthfulqa_mc2": OfflineTask({"question": (str,), "mc2_targets": (dict,)}, ("truthfulqa_mc",)),
    "wikitext": OfflineTask({"page|text": (str,)}, ("wikitext2", "wikitext2_v1"), _pages),
    "winogrande": OfflineTask(
        dict.fromkeys(("sentence", "option1", "option2", "answer"), (str,)), ("winogrande_xl",)
    ),
}
"""By the harness's name; `mmlu` is every one of its subjects."""


def read_rows(file: Path, task: OfflineTask) -> list[Row]:
    """Reads JSON lines in the hub's fields and makes the harness's rows of them.

    Raises:
        DataError: The file is empty, or a row is no JSON object or lacks a field (named, with its line).
    """
    rows = list(_checked(file, task.fields))
    if not rows:
        raise DataError("data", str(file), "at least one item", "fill the file, or leave the task out")
    return task.prepare(rows)


def _checked(file: Path, fields: Mapping[str, tuple[type, ...]]) -> Iterator[Row]:
    # Not str.splitlines: it also splits at characters that JSON leaves as they are, such as U+2028.
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad_row(file, number, line, "a JSON object") from error
        if not isinstance(row, dict):
            raise _bad_row(file, number, row, "a JSON object")
        for names, types in fields.items():
            if not any(isinstance(row.get(name), types) for name in names.split("|")):
                kinds = " or ".join(kind.__name__ for kind in types)
                expected = f"{names.replace('|', ' or ')} ({kinds}) beside {', '.join(row)}"
                raise _bad_row(file, number, row, expected)
        yield row


def _bad_row(file: Path, number: int, row: object, expected: str) -> DataError:
    return DataError(f"{file.name}, line {number}", row, expected, "give rows in the hub's own fields")
