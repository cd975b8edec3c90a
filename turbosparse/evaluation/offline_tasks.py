"""The harness's own tasks on items from a data folder, where the hub can't be reached.

A task keeps its prompts, metrics and versions: only where its items come from is changed. No few-shot
examples are shown: a data folder holds none for these tasks.
"""

import json
from pathlib import Path

OFFLINE_FILES: dict[str, str] = {
    "arc_challenge": "arc_challenge.jsonl",
    "arc_easy": "arc_easy.jsonl",
    "boolq": "boolq_val.jsonl",
    "hellaswag": "hellaswag_val.jsonl",
    "lambada_openai": "lambada_openai_test.jsonl",
    "openbookqa": "openbookqa_val.jsonl",
    "piqa": "piqa_val.jsonl",
    "sciq": "sciq_val.jsonl",
    "truthfulqa_mc2": "truthfulqa_mc.jsonl",
    "winogrande": "winogrande_xl_val.jsonl",
}
"""The file of a task's items in a data folder, rows in the hub's own fields."""


def offline_file(task: str, data_folder: Path | None) -> Path | None:
    """Returns the task's items in the data folder; None where it has none."""
    if data_folder is None or task not in OFFLINE_FILES:
        return None
    file = data_folder / OFFLINE_FILES[task]
    return file if file.is_file() else None


def write_offline_task(task: str, harness_yaml: Path, items: Path, scratch: Path) -> Path:
    """Writes a task file that includes the harness's own and reads `items` instead of the hub.

    Args:
        task: the task's name, which stays.
        harness_yaml: the harness's file of the task.
        items: JSON lines.
        scratch: where the file is written.
    """
    split = "test" if task == "lambada_openai" else "validation"
    content = {
        "include": str(harness_yaml),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(_with_labels(task, items, scratch))}},
        "training_split": None,
        "validation_split": split if split == "validation" else None,
        "test_split": split if split == "test" else None,
        "num_fewshot": 0,
    }
    file = scratch / f"{task}.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _with_labels(task: str, items: Path, scratch: Path) -> Path:
    """Returns the items; BoolQ's own `answer: bool` becomes SuperGLUE's `label: int`."""
    if task != "boolq":
        return items.resolve()
    labelled = scratch / items.name
    with items.open(encoding="utf-8") as rows, labelled.open("w", encoding="utf-8") as out:
        for row in map(json.loads, rows):
            out.write(json.dumps(row if "label" in row else {**row, "label": int(row["answer"])}) + "\n")
    return labelled
