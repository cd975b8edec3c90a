"""`reproduce all`: every table and figure said, one page that holds them, what differs below each."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.config import Placement, resolve
from turbosparse.errors import ConfigError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import add_vocabulary, with_predictors
from turbosparse.model.folder import load_model, save_model
from turbosparse.reproduce import everything, made, table5, table12
from turbosparse.reproduce.common import Request
from turbosparse.reproduce.differs import PAPER_SETTINGS
from turbosparse.reproduce.made import MOE_TUNED, ORIGINAL, RELU, TUNED, given_or_made
from turbosparse.stages import base, finetune, pretrain
from turbosparse.stages.specs import Specs
from turbosparse.train.history import StepRecord, append_record, read_history, summarise


@pytest.fixture
def request_of(tmp_path):
    place = Placement(root=str(tmp_path / "root"))
    return lambda **changes: Request(**{"out": tmp_path / "out", "placement": place, **changes})


def test_every_table_and_figure_of_the_issue_is_there():
    assert set(everything.ALL) <= set(PAPER_SETTINGS)
    tables, figures = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13), (3, 4, 5, 6, 7)
    assert {f"table{n}" for n in tables} | {f"figure{n}" for n in figures} == {*everything.ALL} - {
        "activated"
    }


def test_one_page_holds_what_was_measured_and_why_the_rest_was_not(request_of):
    names = ("table5", "table2", "activated")
    report = everything.reproduce_all(request_of(scale="7b"), names)
    assert report["reproductions"]["table2"]["measured"] is False
    out = request_of().out
    page = (out / "index.html").read_text()
    assert "Table 5: training hyperparameters" in page
    assert "table2: the paper&#39;s study is of 300M parameters" in page
    assert re.findall(r'href="(table5[^"]*)"', page) == ["table5.json", "table5.md"]
    assert (out / "table5.md").read_text().count("**What differs.** Here: scale 7b") == 1
    assert json.loads((out / "all.json").read_text())["reproductions"] == report["reproductions"]
    links = re.findall(r"\]\((.*?)\)", (out / "index.md").read_text())
    assert links == ["table5.md", "activated.md"]
    assert all((out / link).is_file() for link in links)


def test_the_tiny_scale_is_limited_and_asks_for_no_hub(request_of, monkeypatch):
    seen = []
    monkeypatch.setattr(
        everything, "reproduce_one", lambda name, request: seen.append(request) or _nothing(name)
    )
    everything.reproduce_all(request_of(), ("table10",))
    everything.reproduce_all(request_of(data=request_of().out, limit=7), ("table10",))
    everything.reproduce_all(request_of(scale="300m"), ("table10",))
    assert [(one.tasks, one.limit) for one in seen] == [(("local_cloze",), 40), ((), 7), ((), None)]


def _nothing(name: str):
    return everything.Reproduction(name, name, ["a"], [["b"]], {}, {}, [])


def test_table_5_and_12_set_the_paper_beside_its_preset_and_this_scale(request_of):
    for module, preset, steps in ((table5, "mistral-7b", "17,882"), (table12, "300m", "19,074")):
        result = module.reproduce(request_of())
        rows = {row[0]: row[1:] for row in result.rows}
        assert rows["steps"] == ["not in the text", steps, "60", "not run here"]
        for name in ("sequence length, tokens", "batch size, sequences", "warmup steps"):
            assert rows[name][0] == rows[name][1], "the preset is the paper's recipe"
        assert result.measured["run"] is None
        assert "no pretraining" in result.measured["why"]
        assert preset in result.header[2]


def test_a_recipe_is_shown_as_its_history_says_it_ran(request_of):
    request = request_of()
    recipe = resolve("tiny", None, True).pretrain
    store = Store(request.placement.root)

    def build(workspace):
        for step in range(1, 61):
            rate = 1e-3 * min(1.0, step / 7)
            append_record(workspace.folder / "history.jsonl", StepRecord(step, 5.0, 10.0, rate))
        return {"tokens_per_second": 1234.0}

    corpus = ArtifactSpec("prepare", 1, {"sequence_length": 256})
    store.produce(corpus, _touch)
    store.produce(ArtifactSpec("pretrain", 1, recipe.model_dump(mode="json"), {"corpus": corpus}), build)
    rows = {row[0]: row[4] for row in table5.reproduce(request).rows}
    assert rows["warmup steps"] == "6"
    assert rows["learning rate"] == "0.001 → 0.001"
    assert rows["tokens"] == f"{60 * 8 * 256:,}"
    assert rows["hardware"] == "at 1,234 tokens/s"
    assert rows["optimizer"] == "–"


def _touch(workspace) -> dict:
    (workspace.folder / "file").write_text("text")
    return {}


def test_what_is_made_is_what_the_paper_measured(request_of):
    request = request_of()
    relu, tuned = (Specs(made._open(request, wanted)) for wanted in (RELU, TUNED))
    assert relu.convert.config["activation"] == "reglu"
    assert tuned.convert.config["activation"] == "drelu"
    assert relu.base.identity == tuned.base.identity, "both start from the same original"
    mixture = made._open(request, MOE_TUNED)
    assert mixture.config.model.architecture == "mixtral"
    assert Specs(mixture).prepare.identity == tuned.prepare.identity, "one corpus for all"


def test_a_model_that_starts_from_random_weights_has_a_swiglu_twin(request_of):
    request = request_of(scale="300m", dry_run=True)
    twin = made._open(request, ORIGINAL)
    assert twin.config.convert.activation == "swiglu"
    assert Specs(twin).pretrain.config == Specs(made._open(request, TUNED)).pretrain.config


def test_a_scale_without_a_mixture_of_experts_says_so(request_of, monkeypatch, tmp_path):
    monkeypatch.setattr(made, "_make", lambda request, wanted: made.Model(wanted.label, "folder"))
    monkeypatch.setattr(made, "held_back_text", lambda request: tmp_path / "held_back.jsonl")
    given = given_or_made(request_of(scale="300m", dry_run=True), (TUNED, MOE_TUNED))
    assert [model.label for model in given.models] == ["TurboSparse"]
    assert any("no mixture of experts" in note for note in given.notes)
    assert given.request.text == given.held_back


def test_models_that_are_given_are_not_made(request_of):
    given = given_or_made(request_of(models=["A=x"]), (TUNED, MOE_TUNED))
    assert [(model.label, model.folder, model.artifact) for model in given.models] == [("A", "x", None)]


def test_the_7b_scale_asks_for_its_source(request_of):
    with pytest.raises(ConfigError, match="--source"):
        given_or_made(replace(request_of(), scale="7b"), (TUNED,))


def train_nothing(run, name, recipe, inputs, workspace, listener):
    """Stands for a training: the model stays as it was, its losses are made up."""
    model, folder = load_model(inputs.model_folder), workspace.folder / "model"
    if inputs.vocab_size is not None:
        add_vocabulary(model, inputs.vocab_size)
    if inputs.predictor is not None:
        model = with_predictors(model, inputs.predictor.rank, 0)
    save_model(model, folder)
    copy_tokenizer(inputs.data_folder / "tokenizer", folder)
    for step in range(1, recipe.num_steps + 1):
        record = StepRecord(step, 9 - step / 10, 100.0, 1e-3, zero_activation_ratio=0.5)
        append_record(workspace.folder / "history.jsonl", record)
    return summarise(read_history(workspace.folder / "history.jsonl"), recipe.num_steps)


@pytest.mark.slow
def test_all_of_it_is_made_once_and_written(request_of, stories260k, tmp_path, monkeypatch):
    """Everything but Table 7's benchmark and the trainings themselves, on real items."""
    for stage in (base, pretrain, finetune):
        monkeypatch.setattr(stage, "run_training", train_nothing)
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    rows = [json.dumps({"text": f"The old fox sees {n} red owls at noon. " * 9}) for n in range(90)]
    (corpora / "web.jsonl").write_text("\n".join(rows))
    questions = [json.dumps({"question": f"How many are {n}?", "answer": f"{n} owls"}) for n in range(200)]
    (tmp_path / "instructions.jsonl").write_text("\n".join(questions))
    request = request_of(
        data=stories260k.parents[1] / "eval",
        limit=2,
        num_tokens=600,
        overrides={
            "data": {
                "mixture": {"wanjuan-cc": 100.0},
                "num_tokens": 64 * 64,
                "sequence_length": 64,
                "vocab_size": 320,
                "near_duplicates": False,
            },
            "model": {"hidden_size": 96, "intermediate_size": 128, "num_layers": 2},
            "pretrain": {"num_steps": 5, "warmup_steps": 1},
            "finetune": {"sequence_length": 128, "predictor": {"threshold": {"num_tokens": 200}}},
        },
        placement=Placement(
            root=str(tmp_path / "root"),
            corpora=str(corpora),
            instructions=str(tmp_path / "instructions.jsonl"),
        ),
    )
    # Table 4 is of the paper's 17 sources, which this corpus has not.
    names = [name for name in everything.ALL if name not in ("table4", "table7")]
    report = everything.reproduce_all(request, names)["reproductions"]
    assert all(found["measured"] for found in report.values())
    for name, found in report.items():
        assert {f"{name}.json", f"{name}.md"} <= set(found["files"])
        markdown = (request.out / f"{name}.md").read_text()
        assert "**What differs.** Here:" in markdown
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1, name
        assert any("paper" in line for line in lines) or name in ("figure3", "figure7", "activated"), name
        assert all(
            min(Image.open(request.out / path).size) > 400 for path in found["files"] if ".png" in path
        )
    made_models = Counter(manifest.kind for manifest in Store(request.placement.root).manifests())
    assert (made_models["prepare"], made_models["base"], made_models["finetune"]) == (1, 2, 2)
    # Recovered: dReLU, ReLU, shifted ReLU, the study's two arms, the mixture of experts.
    assert made_models["pretrain"] == 6
    assert made_models["task-results"] == 8, "Tables 6 and 13 ask each of four models"
    page = (request.out / "index.html").read_text()
    assert page.count("<section") == len(names)
    assert "<script" not in page
