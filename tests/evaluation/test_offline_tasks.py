"""The harness's own tasks on items from a data folder: its prompts, our files, no network."""

import json
import shutil
from pathlib import Path

import pytest

from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.loading import Sources, load_tasks
from turbosparse.evaluation.offline_rows import ITEM_ENDINGS, OFFLINE_TASKS, read_rows
from turbosparse.evaluation.offline_tasks import FROM_ITEMS
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.model.folder import load_model

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
ARC = {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "A"}


@pytest.fixture(scope="module")
def shared_eval() -> Path:
    if not EVAL.is_dir():
        pytest.skip("shared test data absent")
    return EVAL


def write(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def arc_rows(num_rows, word="question"):
    return [{"question": f"{word} {number}?", **ARC} for number in range(num_rows)]


def prompts(names, folder, tmp_path):
    """The prompts that the harness makes, by task."""
    loaded = load_tasks(plan_tasks(names).tasks, Sources(folder), tmp_path)
    found = {}
    for name, task in loaded.tasks.items():
        task.build_all_requests(limit=None, rank=0, world_size=1)
        found[name] = [instance.args[0] for instance in task.instances if instance.idx == 0]
    return found, loaded


def test_examples_come_from_the_split_that_is_there(tmp_path):
    write(tmp_path, "arc_easy_test.jsonl", arc_rows(3))
    write(tmp_path, "arc_easy_train.jsonl", arc_rows(5, "example"))
    (scratch := tmp_path / "scratch").mkdir()
    found, loaded = prompts(["arc_easy:4"], tmp_path, scratch)
    assert loaded.fewshot_source == {"arc_easy": "train"}
    for number, prompt in enumerate(found["arc_easy"]):
        assert prompt.count("example") == 4
        assert prompt.endswith(f"Question: question {number}?\nAnswer:")


def test_without_a_split_examples_are_other_items_and_never_the_item_itself(tmp_path):
    write(tmp_path, "arc_easy.jsonl", arc_rows(6))
    (scratch := tmp_path / "scratch").mkdir()
    found, loaded = prompts(["arc_easy:5"], tmp_path, scratch)
    assert loaded.fewshot_source == {"arc_easy": FROM_ITEMS}
    for number, prompt in enumerate(found["arc_easy"]):
        asked = [line for line in prompt.splitlines() if line.startswith("Question")]
        assert sorted(asked) == [f"Question: question {other}?" for other in range(6)]
        assert asked[-1] == f"Question: question {number}?"


@pytest.mark.parametrize(
    ("tasks", "rows", "message"),
    [
        (["arc_easy"], None, r"data, arc_easy.*arc_easy.jsonl or arc_easy_test.jsonl"),
        (["arc_easy"], [], "at least one item"),
        (["arc_easy"], [{"question": "why?"}], r"arc_easy.jsonl, line 1.*choices \(dict\) beside question"),
        (["arc_easy"], [{**arc_rows(1)[0], "question": 3}], r"line 1.*question \(str\)"),
        (["arc_easy"], ["text"], r"line 1.*JSON object"),
        (["arc_easy"], [{**arc_rows(1)[0], "answerKey": "C"}], r"arc_easy.*prompts can be made"),
        (["arc_easy:3"], arc_rows(3), r"examples, arc_easy.*ask for fewer: arc_easy:2"),
        (["truthfulqa_mc2:2"], [], r"examples, truthfulqa_mc2: 2.*its prompt is what it is"),
        (["wikitext:2"], [], r"examples, wikitext: 2.*no prompt"),
        (["arc_eazy"], [], r"arc_eazy.*did you mean arc_easy"),
        (["lambada_standard"], [], r"'lambada_standard'.*items come from a data folder"),
    ],
    ids=[
        "missing file",
        "empty file",
        "missing field",
        "field of another type",
        "no object",
        "answer that is no choice",
        "too few other items",
        "fixed prompt",
        "no prompt",
        "unknown task",
        "no such rows known",
    ],
)
def test_what_is_wrong_with_data_or_examples_is_named(tmp_path, tasks, rows, message):
    if rows is not None:
        write(tmp_path, "arc_easy.jsonl", rows)
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises(DataError, match=message):
        load_tasks(plan_tasks(tasks).tasks, Sources(tmp_path), scratch)


def test_examples_of_the_hubs_task_without_a_split_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"examples, lambada_openai: 3.*split for examples"):
        load_tasks(plan_tasks(["lambada_openai:3"]).tasks, Sources(), tmp_path)


def test_a_task_and_the_group_that_has_it_are_not_both_run(tmp_path):
    with pytest.raises(DataError, match=r"tasks, mmlu_anatomy.*each task once"):
        load_tasks(plan_tasks(["mmlu", "mmlu_anatomy"]).tasks, Sources(tmp_path), tmp_path)


def test_a_group_is_averaged_over_all_its_members_or_refused(shared_eval, tmp_path):
    shutil.copy(shared_eval / "mmlu_fewshot_dev.jsonl", tmp_path)
    rows = [json.loads(line) for line in (shared_eval / "mmlu_test.jsonl").open(encoding="utf-8")]
    write(tmp_path, "mmlu_test.jsonl", [row for row in rows if row["subject"] != "virology"])
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises(DataError, match=r"data, mmlu_virology.*subject is virology"):
        load_tasks(plan_tasks(["mmlu"]).tasks, Sources(tmp_path), scratch)


def test_lines_of_wikitext_become_pages(tmp_path):
    lines = [
        "",
        " = Valkyria = ",
        "",
        " A text . ",
        " = = Section = = ",
        " More . ",
        " = Robert = ",
        " Born . ",
    ]
    write(tmp_path, "wikitext2_v1_validation.jsonl", [{"text": f"{line}\n"} for line in lines])
    task = OFFLINE_TASKS["wikitext"]
    pages = read_rows(task.find(tmp_path, "wikitext", ITEM_ENDINGS), task)
    assert [page["page"] for page in pages] == [
        " = Valkyria = \n\n A text . \n = = Section = = \n More . ",
        " = Robert = \n Born . ",
    ]


def test_items_answers_and_metrics_are_the_files_and_the_harnesss(shared_eval, stories260k):
    """One task of each kind: plain choices, filled sentences, rows whose labels are rewritten, last words."""
    tasks = ("arc_easy", "winogrande", "boolq", "lambada_openai")
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    found = evaluate_model(model, tokenizer, tasks, shared_eval, limit=4)
    assert found.num_items == dict.fromkeys(tasks, 4)
    assert found.results["arc_easy"].keys() >= {"acc", "acc_norm"}
    assert found.results["lambada_openai"].keys() >= {"acc", "perplexity"}

    def rows(file):
        return [json.loads(line) for line in (shared_eval / file).open(encoding="utf-8")]

    def records(task):
        return [record for record in found.records if record.task == task]

    arc = [row["choices"]["label"].index(row["answerKey"]) for row in rows("arc_easy.jsonl")]
    words = [row["text"].split(" ")[-1] for row in rows("lambada_openai_test.jsonl")]
    assert [record.target for record in records("arc_easy")] == [str(one) for one in arc[:4]]
    assert [record.target for record in records("lambada_openai")] == words[:4]
    for record, row in zip(records("boolq"), rows("boolq_val.jsonl"), strict=False):
        no, yes = record.log_likelihoods
        assert record.target == str(int(row["answer"]))
        assert record.metrics["acc"] == float((yes > no) == row["answer"])


def test_contexts_that_had_to_be_cut_are_counted(shared_eval, stories260k):
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    found = evaluate_model(model, tokenizer, ["arc_easy:0", "piqa:20"], shared_eval, limit=3)
    assert found.num_too_long == {"arc_easy": 0, "piqa": 3}, "20 examples are more than 512 tokens"
    assert [record.num_too_long for record in found.records if record.task == "piqa"] == [2, 2, 2]
    assert found.num_fewshot == {"arc_easy": 0, "piqa": 20}


def test_one_number_of_examples_for_all_tasks_that_do_not_say(shared_eval, stories260k):
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    options = EvaluationOptions(num_fewshot=2)
    found = evaluate_model(model, tokenizer, ["arc_easy", "piqa:1"], shared_eval, 1, options=options)
    assert found.num_fewshot == {"arc_easy": 2, "piqa": 1}
