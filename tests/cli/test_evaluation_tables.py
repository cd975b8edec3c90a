"""What `turbosparse evaluate` shows: groups instead of their members, intervals, and what must be said."""

import io

from rich.console import Console

from turbosparse.cli.evaluation import evaluation_tables
from turbosparse.evaluation.offline_tasks import FROM_ITEMS
from turbosparse.evaluation.records import EvaluationResult


def shown(**changes):
    accuracy = {"acc": 0.5, "acc_stderr": 0.1}
    fields = {
        "results": {"piqa": accuracy, "mmlu": {"acc": 0.25}, "mmlu_virology": {"acc": 0.25}},
        "num_items": {"piqa": 8, "mmlu": 4, "mmlu_virology": 4},
        "records": [],
        "num_too_long": {"piqa": 0, "mmlu": 3, "mmlu_virology": 3},
        "intervals": {"piqa": {"acc": [0.304, 0.696]}, "mmlu": {}, "mmlu_virology": {}},
        "higher_is_better": {},
        "num_fewshot": {"piqa": 2},
        "fewshot_source": {"piqa": FROM_ITEMS},
        "versions": {},
        "groups": {"mmlu": ["mmlu_virology"]},
        "averages": {"both": {"value": None, "why": "not measured: gsm8k"}},
        "settings": {"context_tokens": 512},
    }
    console = Console(file=io.StringIO(), width=200)
    console.print(*evaluation_tables(EvaluationResult(**(fields | changes))), sep="\n")
    return console.file.getvalue()


def test_figures_intervals_and_groups():
    text = shown()
    assert "0.5000" in text
    assert "0.3040 – 0.6960" in text
    assert "mmlu" in text
    assert "mmlu_virology" not in text
    assert "acc_stderr" not in text


def test_what_must_be_said_is_said_once():
    text = shown()
    assert "average both: not measured: gsm8k" in text
    assert "512 tokens: mmlu 3 of 4\n" in text
    assert f"{FROM_ITEMS}, for lack of a split: piqa" in text
    quiet = shown(num_too_long={"piqa": 0, "mmlu": 0, "mmlu_virology": 0}, fewshot_source={"piqa": "train"})
    assert "warning" not in quiet
