"""What an evaluation leaves behind: figures, and one record per item, as files that others compare."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from turbosparse.errors import DataError

RESULTS_FILE = "results.json"
ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True)
class ItemRecord:
    """One item of one task, and what the model made of it."""

    task: str
    doc_id: int
    """Its place in the task's split."""
    doc_hash: str
    """Digest of the item: equal in two evaluations, it was the same item."""
    prompt_hash: str
    """Digest of the prompt, examples included."""
    target: str
    """The right answer, or its number, shortened."""
    log_likelihoods: tuple[float, ...] = ()
    """Of each choice, of the continuation, or of the whole text."""
    is_greedy: tuple[bool, ...] = ()
    """Whether greedy decoding gives each choice."""
    responses: tuple[str, ...] = ()
    """What was generated, one per filter of the task."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scores whose mean over items is the task's figure: acc, acc_norm, `exact_match,strict-match`."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Words, bytes and tokens of a text whose perplexity is measured."""
    num_too_long: int = 0
    """Requests of this item whose context was cut from the left to fit the model."""


@dataclass(frozen=True)
class EvaluationResult:
    """What the harness measured."""

    results: dict[str, dict[str, float]]
    """Figures by task or group and metric; `<metric>_stderr` is the standard error."""
    num_items: dict[str, int]
    """Items measured by task or group."""
    records: list[ItemRecord]
    """Every item of every task."""
    num_too_long: dict[str, int]
    """Items by task or group of which a context had to be cut."""
    intervals: dict[str, dict[str, list[float]]]
    """95% confidence intervals, lower and upper end, where the harness has a standard error."""
    higher_is_better: dict[str, dict[str, bool]]
    """By task and metric."""
    num_fewshot: dict[str, int]
    """Examples in each prompt by task."""
    fewshot_source: dict[str, str]
    """Where a task's examples were drawn from, where it has any."""
    versions: dict[str, str]
    """The harness's version of each task."""
    groups: dict[str, list[str]]
    """Tasks of each group, such as mmlu."""
    averages: dict[str, dict[str, Any]]
    """The suites' averages: `value`, or None and `why`."""
    settings: dict[str, Any]
    """How it was measured: mode, top-k ratio, limit, device, dtype, and the versions of what measured."""

    def summary(self) -> dict[str, Any]:
        """Returns everything but the records, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "records"}


def write_result(result: EvaluationResult, folder: Path) -> list[Path]:
    """Writes results.json and items.jsonl to a folder; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    summary, items = folder / RESULTS_FILE, folder / ITEMS_FILE
    summary.write_text(json.dumps(result.summary(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with items.open("w", encoding="utf-8") as out:
        for record in result.records:
            out.write(json.dumps(asdict(record), allow_nan=False) + "\n")
    return [summary, items]


def read_result(folder: Path) -> EvaluationResult:
    """Returns what `write_result` wrote.

    Raises:
        DataError: A file is missing, or not one of ours.
    """
    try:
        summary = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        return EvaluationResult(records=list(_read_records(folder / ITEMS_FILE)), **summary)
    except (OSError, ValueError, TypeError) as error:
        expected = f"an evaluation's folder, with {RESULTS_FILE} and {ITEMS_FILE} ({error})"
        raise DataError("evaluation", str(folder), expected, "give what evaluate --out wrote") from error


def _read_records(path: Path) -> Iterable[ItemRecord]:
    # Not str.splitlines: it also splits at characters that JSON leaves as they are, such as U+2028.
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        for name in ("log_likelihoods", "is_greedy", "responses"):
            row[name] = tuple(row[name])
        yield ItemRecord(**row)
