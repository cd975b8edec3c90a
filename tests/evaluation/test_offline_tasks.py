"""The harness's own tasks on items from a data folder: its prompts, our files, no network."""

import json
from pathlib import Path

import pytest

from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.evaluation.harness import evaluate_model
from turbosparse.evaluation.offline_tasks import OFFLINE_FILES, offline_file
from turbosparse.model.folder import load_model

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


@pytest.fixture(scope="module")
def data_folder() -> Path:
    if not EVAL.is_dir():
        pytest.skip("shared test data absent")
    return EVAL


def rows(data_folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (data_folder / OFFLINE_FILES[task]).open(encoding="utf-8")]


def test_a_folder_without_a_tasks_items_leaves_it_to_the_hub(data_folder, tmp_path):
    assert offline_file("piqa", data_folder) == data_folder / "piqa_val.jsonl"
    assert offline_file("piqa", tmp_path) is None
    assert offline_file("piqa", None) is None
    assert offline_file("mmlu", data_folder) is None


def test_items_answers_and_metrics_are_the_files_and_the_harnesss(data_folder, stories260k):
    """One task of each kind: plain choices, filled sentences, rows whose labels are rewritten, last words."""
    tasks = ("arc_easy", "winogrande", "boolq", "lambada_openai")
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    found = evaluate_model(model, tokenizer, tasks, data_folder, limit=4)
    assert found.num_items == dict.fromkeys(tasks, 4)
    assert found.results["arc_easy"].keys() >= {"acc", "acc_norm"}
    assert found.results["lambada_openai"].keys() >= {"acc", "perplexity"}
    answers = {
        "arc_easy": [
            row["choices"]["label"].index(row["answerKey"]) for row in rows(data_folder, "arc_easy")
        ],
        "boolq": [int(row["answer"]) for row in rows(data_folder, "boolq")],
        "lambada_openai": [row["text"].split(" ")[-1] for row in rows(data_folder, "lambada_openai")],
    }
    for task, expected in answers.items():
        assert [sample["target"] for sample in found.samples[task]] == [str(one) for one in expected[:4]]
    for sample, row in zip(found.samples["boolq"], rows(data_folder, "boolq"), strict=False):
        no, yes = sample["log_likelihoods"]
        assert sample["acc"] == float((yes > no) == row["answer"])
