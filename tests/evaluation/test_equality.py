"""An exported folder's figures are those of lm-evaluation-harness's own command line, item by item."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from turbosparse.evaluation.folder import evaluate_folder
from turbosparse.evaluation.loading import Sources, load_tasks
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.export.huggingface import copy_tokenizer, export_huggingface
from turbosparse.model.convert import convert_model

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
LIMIT = 3
TASKS = (
    *("arc_easy:2", "arc_challenge:25", "hellaswag:1", "winogrande:3", "mmlu_anatomy:1", "mmlu_virology:5"),
    *("truthfulqa_mc2:0", "piqa:0", "sciq:0", "openbookqa:0", "boolq:0", "lambada_openai:0", "wikitext:0"),
    "gsm8k:1",
)
"""Every task of the paper; the model's 512 tokens hold some of these prompts, and some not."""


@pytest.fixture(scope="module")
def exported(stories260k, tmp_path_factory) -> Path:
    """A real model with dReLU, exported: its own modelling code is what the command line runs."""
    if not EVAL.is_dir():
        pytest.skip("shared test data absent")
    folder = tmp_path_factory.mktemp("model")
    convert_model(str(stories260k), folder / "drelu", "drelu")
    copy_tokenizer(stories260k, folder / "drelu")
    export_huggingface(folder / "drelu", folder / "exported", "# A model\n")
    return folder / "exported"


@pytest.fixture(scope="module")
def theirs(exported, tmp_path_factory) -> Path:
    """What the command line wrote about the same items."""
    work = tmp_path_factory.mktemp("theirs")
    (tasks := work / "tasks").mkdir()
    load_tasks(plan_tasks(TASKS).tasks, Sources(EVAL), tasks)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--trust_remote_code"]
    command += ["--model_args", f"pretrained={exported}", "--tasks", ",".join(map(name, TASKS))]
    command += ["--include_path", str(tasks), "--limit", str(LIMIT), "--batch_size", "4", "--device", "cpu"]
    command += ["--log_samples", "--output_path", str(work)]
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "hub")}
    subprocess.run(command, env=environment, check=True)
    return work


def name(task):
    return task.partition(":")[0]


def as_numbers(answers):
    """The harness writes log-likelihoods as text, alone or beside whether they are greedy."""
    pairs = [answer if isinstance(answer, list) else [answer] for answer in answers]
    return [float(pair[0]) for pair in pairs], [str(pair[1]) == "True" for pair in pairs if len(pair) > 1]


@pytest.mark.slow
def test_every_item_of_every_task_of_the_paper_is_alike(exported, theirs):
    ours = evaluate_folder(exported, TASKS, EVAL, LIMIT)
    results = json.loads(next(theirs.rglob("results_*.json")).read_text(encoding="utf-8"))["results"]
    for task in map(name, TASKS):
        records = {record.doc_id: record for record in ours.records if record.task == task}
        file = next(theirs.rglob(f"samples_{task}_*.jsonl"))
        samples = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert {sample["doc_id"] for sample in samples} == records.keys()
        for sample in samples:
            record = records[sample["doc_id"]]
            assert (record.doc_hash, record.prompt_hash) == (sample["doc_hash"], sample["prompt_hash"])
            if record.responses:
                assert sample["filtered_resps"][0] in record.responses
                continue
            log_likelihoods, are_greedy = as_numbers(sample["filtered_resps"])
            tolerance = {"rel": 1e-6, "abs": 1e-4}
            assert record.log_likelihoods == pytest.approx(tuple(log_likelihoods), **tolerance), task
            assert list(record.is_greedy) == are_greedy
        for figure, value in ours.results[task].items():
            metric = figure if "," in figure else f"{figure},none"
            # The harness resamples a hundred times as often for perplexity's standard error.
            if metric in results[task] and "perplexity_stderr" not in metric:
                assert value == pytest.approx(results[task][metric], rel=1e-5), f"{task}, {figure}"
    assert ours.num_too_long["arc_challenge"] == LIMIT
    assert ours.num_too_long["piqa"] == 0
