"""The study: arms that differ in their activation alone, and figures that say what was measured."""

import csv
import json
import math

import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from turbosparse.analysis.text import joined_windows
from turbosparse.analysis.topk import Perplexity
from turbosparse.artifacts import ArtifactSpec
from turbosparse.cli.reproduce import reproduce
from turbosparse.config import DataConfig, ModelConfig, Placement
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ConfigError, DataError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import initial_model
from turbosparse.model.folder import save_model
from turbosparse.reproduce import figure4, study, table2, table10
from turbosparse.reproduce.common import Request, write_reproduction
from turbosparse.stages.specs import Specs
from turbosparse.train.history import StepRecord, append_record, summarise

LENGTH, BATCH, NUM_STEPS = 32, 4, 20
MIXTURE = {"wanjuan-cc": 75.0, "github-code": 25.0}
MODEL = ModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, context_length=64
)


def documents(source: str) -> list[str]:
    return [f"The {source} number {n} sees the old fox at noon. " * 8 for n in range(40)]


@pytest.fixture(scope="module")
def arms(make_corpus):
    """Both arms as the stages leave them, their models untrained, their histories of known losses."""
    config = DataConfig(
        corpora="local", mixture=MIXTURE, num_tokens=64 * LENGTH, sequence_length=LENGTH, vocab_size=320
    )
    corpus = make_corpus(config, {source: documents(source) for source in MIXTURE})
    tokenizer = load_tokenizer(corpus.folder() / "tokenizer")
    losses = {
        "SwiGLU": [6.0 - step / 10 for step in range(NUM_STEPS)],
        "dReLU": [7.0 - step / 10 for step in range(NUM_STEPS)],
    }

    def build(workspace, activation, label):
        save_model(initial_model(MODEL, tokenizer, activation), workspace.folder / "model")
        copy_tokenizer(corpus.folder() / "tokenizer", workspace.folder / "model")
        history = [
            StepRecord(step, loss, 100.0, 1e-3, zero_activation_ratio=0.5)
            for step, loss in enumerate(losses[label], start=1)
        ]
        for record in history:
            append_record(workspace.folder / "history.jsonl", record)
        return summarise(history, NUM_STEPS)

    recipe = {"num_steps": NUM_STEPS, "batch_size_sequences": BATCH}
    return [
        study.Arm(
            label,
            corpus,
            corpus.store.produce(
                ArtifactSpec("pretrain", 1, recipe | {"arm": label}, {}),
                lambda workspace, a=activation, b=label: build(workspace, a, b),
            ),
        )
        for activation, label in study.LABELS.items()
    ]


@pytest.fixture
def request_of(arms, monkeypatch, tmp_path):
    for module in (table2, figure4, table10):
        monkeypatch.setattr(module, "trained_arms", lambda request: arms)
    return lambda **changes: Request(**{"out": tmp_path, "num_tokens": 2_000, **changes})


def table_of(result, folder):
    write_reproduction(result, folder)
    markdown = (folder / f"{result.name}.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1, "rows of different lengths"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_arms_differ_in_their_activation_alone(tmp_path):
    place = Placement(root=str(tmp_path / "root"))
    overrides = {"data": {"mixture": MIXTURE}, "pretrain": {"num_steps": 9}}
    runs = study.open_arms(Request(tmp_path, overrides=overrides, placement=place))
    swiglu, drelu = (Specs(runs[label]) for label in ("SwiGLU", "dReLU"))
    assert swiglu.prepare.identity == drelu.prepare.identity
    assert swiglu.pretrain.config == drelu.pretrain.config
    assert swiglu.pretrain.config["num_steps"] == 9
    assert swiglu.convert.config | {"activation": "drelu"} == drelu.convert.config
    assert (swiglu.convert.config["activation"], swiglu.convert.config["source"]) == ("swiglu", "random")
    assert swiglu.pretrain.identity != drelu.pretrain.identity


def test_what_can_not_work_is_refused_before_anything_is_made(tmp_path):
    place = Placement(root=str(tmp_path / "root"))
    with pytest.raises(ConfigError, match="--scale"):
        figure4.reproduce(Request(tmp_path, scale="7b", placement=place))
    with pytest.raises(DataError, match="--text"):
        table2.reproduce(Request(tmp_path, text=tmp_path / "missing.txt", placement=place))
    assert not list(tmp_path.rglob("*"))


def test_smoothing_looks_back_only():
    assert figure4.smooth([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]
    assert figure4.smooth([1.0, 2.0], 1) == [1.0, 2.0]
    assert (figure4.smoothed_steps(3), figure4.smoothed_steps(19_074)) == (1, 953)


def test_every_held_back_text_is_measured(arms):
    tokenizer = load_tokenizer(arms[0].model_folder)
    texts = [f"{name} " * 500 for name in ("fox", "owl", "cat")]
    windows = table2.held_back_windows(tokenizer, texts, window_tokens=16, num_tokens=120)
    assert sum(map(len, windows)) == 120
    assert max(map(len, windows)) == 16
    joined = tokenizer.decode(torch.cat(windows).tolist())
    assert all(joined.count(name) > 5 for name in ("fox", "owl", "cat"))


def test_perplexity_per_word_spreads_the_same_loss_over_words(arms):
    tokenizer = load_tokenizer(arms[0].model_folder)
    text = "The old fox sees number seven at noon. " * 9
    windows = joined_windows(tokenizer, [text], 16, None)
    assert len(windows) > 2
    assert table2.count_words(tokenizer, windows) == 72
    assert table2.word_perplexity(Perplexity(3.0, 10), 5) == pytest.approx(9.0)


def test_table_2_measures_both_arms(request_of, tmp_path):
    text = tmp_path / "wiki.txt"
    text.write_text("The red owl sees the big fox . \n" * 60)
    result = table2.reproduce(request_of(text=text))
    swiglu, drelu = result.measured["SwiGLU"], result.measured["dReLU"]
    assert swiglu["zero_activation_ratio"] < 0.01
    assert 0.6 < drelu["zero_activation_ratio"] < 0.9
    assert swiglu["training_loss"] == pytest.approx((4.1 + 4.2) / 2), "the mean of the last tenth"
    for figures in (swiglu, drelu):
        # Models that have learned nothing are near the vocabulary's 320.
        assert 200 < figures["held_back_perplexity"] < 500
        found = figures["text"]
        assert found["num_words"] == 60 * 8
        assert math.log(found["word_perplexity"]) * 480 == pytest.approx(
            math.log(found["token_perplexity"]) * found["num_predicted_tokens"]
        )
        assert figures["num_tokens"] == NUM_STEPS * BATCH * LENGTH
        assert figures["window_tokens"] == LENGTH
    table = table_of(result, tmp_path)
    assert [row[0] for row in table[1:]] == ["SwiGLU", "dReLU", "paper: SwiGLU", "paper: dReLU"]
    assert "28.45" in table[4]


def test_table_2_without_text_says_so(request_of, tmp_path):
    result = table2.reproduce(request_of())
    assert result.measured["dReLU"]["text"] is None
    assert "--text" in result.measured["dReLU"]["why"]
    assert table_of(result, tmp_path)[1].count("not measured") == 2


def test_figure_4_writes_both_curves(request_of, tmp_path):
    result = figure4.reproduce(request_of())
    assert min(Image.open(tmp_path / "figure4.png").size) > 400
    rows = list(csv.DictReader((tmp_path / "figure4.csv").open()))
    assert len(rows) == NUM_STEPS
    assert [float(row["dReLU loss"]) for row in rows] == result.measured["dReLU"]["loss"]
    assert rows[-1]["num_tokens"] == str(NUM_STEPS * BATCH * LENGTH)
    table = table_of(result, tmp_path)
    assert table[1] == ["SwiGLU", "6.000", "5.500", "5.000", "4.500", "4.150"]


def test_table_10_without_tasks_says_so(request_of, tmp_path):
    result = table10.reproduce(request_of())
    assert result.measured["SwiGLU"]["accuracy"] is None
    assert "--tasks" in result.measured["SwiGLU"]["why"]
    table = table_of(result, tmp_path)
    assert set(table[1][1:]) == {"not measured"}
    assert table[4][-1] == "42.23%"


def test_table_10_averages_the_papers_tasks_only(tmp_path):
    found = dict.fromkeys(table10.TASKS, 0.5) | {"arc_easy": 0.85, "local_cloze": 0.0}
    header, rows = table10.tabulate({"SwiGLU": found, "dReLU": found})
    assert header[-2:] == ["local_cloze", "average of the paper's"]
    assert rows[0][1] == "85.0%"
    assert rows[0][-2:] == ["0.0%", "55.0%"]
    assert {len(row) for row in rows} == {len(header)}
    without = {task: value for task, value in found.items() if task != "piqa"}
    assert table10.average(without) is None
    assert table10.tabulate({"SwiGLU": without, "dReLU": without})[1][0][-1] == "not measured"


def test_the_papers_averages_are_those_of_its_accuracies():
    for label, values in table10.PAPER_PERCENT.items():
        assert sum(values) / len(values) == pytest.approx(table10.PAPER_AVERAGE_PERCENT[label], abs=0.01)


@pytest.mark.slow
def test_the_study_trains_once_and_is_found_again(tmp_path):
    """Both arms really trained, through the command line."""
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    rows = [json.dumps({"text": text}) for source in MIXTURE for text in documents(source)]
    (corpora / "web.jsonl").write_text("\n".join(rows))
    (corpora / "sources.yaml").write_text("web.jsonl: [wanjuan-cc, github-code]\n")
    (tmp_path / "short.yaml").write_text(
        json.dumps(
            {
                "data": {
                    "mixture": MIXTURE,
                    "num_tokens": 128 * 32,
                    "sequence_length": 32,
                    "vocab_size": 320,
                    "near_duplicates": False,
                },
                "model": {"hidden_size": 96, "intermediate_size": 128, "num_layers": 2},
                "pretrain": {"num_steps": 12, "warmup_steps": 2},
            }
        )
    )
    app = Typer()
    app.command()(reproduce)

    def run(name: str, *options: str) -> dict:
        given = ["--root", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
        given += ["--corpora", str(corpora), "--config", str(tmp_path / "short.yaml"), "--json"]
        ended = CliRunner().invoke(app, [name, *given, *options])
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout.splitlines()[-1])["measured"]

    curves = run("figure4")
    assert len(curves["SwiGLU"]["loss"]) == len(curves["dReLU"]["loss"]) == 12
    assert curves["SwiGLU"]["loss"] != curves["dReLU"]["loss"]
    for figures in curves.values():
        assert figures["loss"][0] == pytest.approx(math.log(320), abs=0.4)
        assert figures["training_loss"] < figures["loss"][0] - 0.1
    artifacts = sorted((tmp_path / "runs" / "pretrain").iterdir())
    assert len(artifacts) == 2
    losses = run("table2")
    assert {label: figures["artifact"] for label, figures in losses.items()} == {
        label: figures["artifact"] for label, figures in curves.items()
    }
    assert losses["dReLU"]["zero_activation_ratio"] > 0.5
    accuracies = run("table10", "--tasks", "local_cloze", "--limit", "4")
    assert 0 <= accuracies["dReLU"]["accuracy"]["local_cloze"] <= 1
    assert "arc_easy" in accuracies["dReLU"]["why"]
    assert sorted((tmp_path / "runs" / "pretrain").iterdir()) == artifacts
