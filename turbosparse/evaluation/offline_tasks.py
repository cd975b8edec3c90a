"""The harness's own tasks on items from a data folder, where the hub can't be reached.

A task keeps its prompts, metrics and version: only where its items come from is changed. The files that
are written here are task files of the harness: `lm_eval --include_path` reads them too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from turbosparse.errors import DataError
from turbosparse.evaluation.offline_rows import (
    EXAMPLE_ENDINGS,
    ITEM_ENDINGS,
    OFFLINE_TASKS,
    OfflineTask,
    Row,
    read_rows,
)

FROM_ITEMS = "the other items of the same file"
"""Where examples come from if the data folder has no split for them."""
_GROUP = "mmlu"


@dataclass(frozen=True)
class HarnessTask:
    """A task as the harness's register knows it."""

    name: str
    yaml: Path
    config: Mapping[str, Any]

    def drawing_from(self, fewshot_split: str | None) -> "HarnessTask":
        """Returns the task with its examples drawn from another split; None: from its own."""
        if fewshot_split is None:
            return self
        return replace(self, config={**self.config, "fewshot_split": fewshot_split})

    @property
    def item_split(self) -> str:
        """The split whose items are evaluated."""
        return str(self.config.get("test_split") or self.config.get("validation_split"))

    @property
    def example_split(self) -> str | None:
        """The split that examples are drawn from; None where the task has none beside its items."""
        names = ("fewshot_split", "training_split", "validation_split")
        split = next((self.config[name] for name in names if self.config.get(name)), None)
        return None if split is None or split == self.item_split else str(split)

    @property
    def has_own_examples(self) -> bool:
        """Whether the task file itself holds its examples."""
        return "samples" in (self.config.get("fewshot_config") or {})


@dataclass(frozen=True)
class OfflineData:
    """A data folder, and the files that have been read from it."""

    folder: Path
    scratch: Path
    """Where task files and rows are written."""
    rows: dict[Path, list[Row]] = field(default_factory=dict)
    """By file, once it has been read."""

    def write_task(self, task: HarnessTask, num_fewshot: int) -> str | None:
        """Writes a task file that includes the harness's own and reads the folder's rows.

        Returns:
            Where examples come from; None where there are none.

        Raises:
            DataError: The folder lacks the task's file, or rows lack fields, or there are too few examples.
        """
        known, subject = _known(task)
        items = self._rows(task, known, ITEM_ENDINGS, subject)
        if items is None:
            names = " or ".join(known.file_names(_file_task(task), ITEM_ENDINGS))
            remedy = "add it, or leave --data out to take the task's items from the hub"
            raise DataError(f"data, {task.name}", str(self.folder), f"a file {names}", remedy)
        examples = None
        if task.example_split is not None and not task.has_own_examples:
            examples = self._rows(task, known, EXAMPLE_ENDINGS, subject)
        splits = _splits(task, items, examples)
        source = _check_examples(task, items, examples, num_fewshot)
        content = {
            "include": str(task.yaml),
            "task": task.name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": self._write_rows(task.name, splits.pop("rows")),
                "cache_dir": str(self.scratch / "cache"),
            },
            "num_fewshot": num_fewshot,
            **splits,
        }
        write_task_file(content, self.scratch)
        return source

    def _rows(
        self, task: HarnessTask, known: OfflineTask, endings: tuple[str, ...], subject: str | None
    ) -> list[Row] | None:
        file = known.find(self.folder, _file_task(task), endings)
        if file is None:
            return None
        if file not in self.rows:
            self.rows[file] = read_rows(file, known)
        if subject is None:
            return self.rows[file]
        rows = [row for row in self.rows[file] if row["subject"] == subject]
        if not rows:
            remedy = "add some, or name the subjects that are there, such as mmlu_anatomy"
            raise DataError(f"data, {task.name}", str(file), f"rows whose subject is {subject}", remedy)
        return rows

    def _write_rows(self, name: str, rows_by_split: Mapping[str, list[Row]]) -> dict[str, str]:
        files = {}
        for split, rows in rows_by_split.items():
            file = self.scratch / f"{name}_{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files[split] = str(file)
        return files


def write_task_file(content: Mapping[str, Any], folder: Path) -> None:
    """Writes a task file of the harness, named after its task."""
    # JSON is YAML.
    (folder / f"{content['task']}.yaml").write_text(json.dumps(content), encoding="utf-8")


def _known(task: HarnessTask) -> tuple[OfflineTask, str | None]:
    """Returns how a task's rows look, and the subject that its rows are of in a file of many."""
    if (known := OFFLINE_TASKS.get(_file_task(task))) is None:
        expected = f"one of {', '.join(OFFLINE_TASKS)} where items come from a data folder"
        remedy = "leave --data out to take the task's items from the hub"
        raise DataError("tasks", task.name, expected, remedy)
    return known, task.config["dataset_name"] if _file_task(task) == _GROUP else None


def _file_task(task: HarnessTask) -> str:
    """Returns the task that files are named after: MMLU's subjects share theirs."""
    return _GROUP if task.name.startswith(f"{_GROUP}_") else task.name


def _splits(task: HarnessTask, items: list[Row], examples: list[Row] | None) -> dict[str, Any]:
    """Returns the harness's names of splits, and each split's rows.

    With a file of examples they are the task's own names, and examples are drawn as from the hub. Without
    one, items are called test and examples too: that is how the harness leaves out the item itself.
    """
    if examples is not None or task.has_own_examples:
        rows = {task.item_split: items}
        if examples is not None:
            rows[str(task.example_split)] = examples
        names = ("training_split", "validation_split", "test_split", "fewshot_split")
        return {name: task.config.get(name) if task.config.get(name) in rows else None for name in names} | {
            "rows": rows
        }
    own = {"training_split": None, "validation_split": None, "test_split": "test", "fewshot_split": "test"}
    return own | {"rows": {"test": items}}


def _check_examples(
    task: HarnessTask, items: list[Row], examples: list[Row] | None, num_fewshot: int
) -> str | None:
    if num_fewshot == 0:
        return None
    if task.has_own_examples:
        return "the task's own"
    pool, source = (examples, str(task.example_split)) if examples is not None else (items[1:], FROM_ITEMS)
    if len(pool) < num_fewshot:
        remedy = f"add examples, or ask for fewer: {task.name}:{len(pool)}"
        raise DataError(f"examples, {task.name}", len(pool), f"{num_fewshot} examples in {source}", remedy)
    return source
