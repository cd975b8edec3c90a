"""Tables and figures: what is written is what was measured, beside the paper's."""

import json
import math

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from turbosparse.analysis.statistics import AnalysisPlan
from turbosparse.analysis.text import read_texts
from turbosparse.cli.reproduce import reproduce
from turbosparse.errors import DataError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import convert_model
from turbosparse.reproduce import activated, figure3, figure5, figure6, figure7, table1, table3
from turbosparse.reproduce.common import (
    Request,
    analysed_models,
    labelled_folders,
    write_reproduction,
)

app = Typer()
app.command()(reproduce)


@pytest.fixture(scope="module")
def request_of(stories260k, tmp_path_factory):
    """A request over the real model before and after conversion."""
    folder = tmp_path_factory.mktemp("reproduce")
    convert_model(stories260k, folder / "drelu")
    copy_tokenizer(stories260k, folder / "drelu")
    text = stories260k.parents[1] / "corpora" / "tinystories.jsonl"
    (folder / "held_back.jsonl").write_text(
        "".join(json.dumps({"source": "tinystories", "text": row}) + "\n" for row in read_texts(text))
    )

    def make(**changes):
        models = [f"SwiGLU={stories260k}", f"dReLU={folder / 'drelu'}"]
        given = {"out": folder / "out", "models": models, "text": text, "num_tokens": 2_000, "data": folder}
        return Request(**given | changes)

    return make


def written(result, folder):
    files = write_reproduction(result, folder)
    for path in result.plots:
        assert min(Image.open(path).size) > 400
    assert json.loads((folder / f"{result.name}.json").read_text())["measured"]
    markdown = next(path for path in files if path.suffix == ".md").read_text()
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1, "a cell holds a bar"
    return markdown


def test_table_1_gives_exact_zeros_and_near_zeros(request_of, tmp_path):
    result = table1.reproduce(request_of())
    swiglu, drelu = result.measured["SwiGLU"], result.measured["dReLU"]
    assert swiglu["zero_activation_ratio"] < 0.01
    assert drelu["zero_activation_ratio"] > 0.6
    near_zero = list(swiglu["near_zero_by_threshold"].values())
    assert near_zero == sorted(near_zero)
    markdown = written(result, tmp_path)
    assert "67.0%" in markdown
    assert "does not say how it counted" in markdown


def test_table_3_masks_each_model(request_of, tmp_path):
    request = request_of(out=tmp_path)
    result = table3.reproduce(request)
    swiglu, drelu = (result.measured[name]["perplexity"] for name in ("SwiGLU", "dReLU"))
    assert swiglu[-1] > 2 * swiglu[0], "at 90% the SwiGLU model is far worse, as in the paper"
    assert drelu[1] == pytest.approx(drelu[0], rel=1e-4), "zeros are what the first half drops"
    assert result.measured["SwiGLU"]["num_predicted_tokens"] == 2_000
    assert "112.36" in written(result, tmp_path)


def test_figure_3_shows_that_only_drelu_rectifies_up(request_of, tmp_path):
    measured = figure3.reproduce(request_of(out=tmp_path)).measured
    assert measured["SwiGLU"]["up"]["below_zero"] > 0.3
    assert measured["dReLU"]["up"]["below_zero"] == 0
    assert measured["dReLU"]["combined"]["zero"] > measured["dReLU"]["gate"]["zero"]
    assert all(math.isclose(sum(part.values()), 1) for parts in measured.values() for part in parts.values())


def test_figures_6_and_7_write_what_they_say(request_of, tmp_path):
    request = request_of(out=tmp_path)
    six, seven = figure6.reproduce(request), figure7.reproduce(request)
    assert "85.0%" in written(six, tmp_path)
    assert len(six.measured["dReLU"]["layers"]) == 5
    assert len(seven.measured["dReLU"]["near_zero_layers"]) == 5
    written(seven, tmp_path)


def test_figure_5_without_tasks_says_what_is_missing(request_of, tmp_path):
    result = figure5.reproduce(request_of(out=tmp_path, data=None))
    assert [path.name for path in result.plots] == ["figure5b.png"]
    assert result.measured["SwiGLU"]["accuracy"] is None
    assert result.measured["SwiGLU"]["why"]
    markdown = written(result, tmp_path)
    assert "not measured" in markdown
    assert "winogrande, truthfulqa_mc2, piqa, lambada_openai, arc_easy, arc_challenge" in markdown


@pytest.mark.slow
def test_figure_5_measures_accuracy_by_sparsity(request_of, tmp_path):
    request = request_of(out=tmp_path, tasks=["local_cloze"], limit=24)
    result = figure5.reproduce(request)
    found = result.measured["SwiGLU"]["accuracy"]
    assert len(found) == len(figure5.SPARSITIES)
    assert found[0]["mean"] == found[0]["local_cloze"] > found[-1]["mean"]
    assert [path.name for path in result.plots] == ["figure5a.png", "figure5b.png"]


def test_activated_parameters_of_the_papers_models_are_near_its_figures(tmp_path):
    result = activated.reproduce(Request(out=tmp_path))
    mistral, mixtral = (result.measured[model.name] for model in activated.MODELS)
    # 32 layers of q, k, v, o and two norms, and the last norm.
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 2 * 4096) + 4096
    assert mistral["parts"]["attention"] == mixtral["parts"]["attention"] == attention
    assert mistral["parts"]["ffn"] == round(0.10 * 32 * 3 * 4096 * 14_336)
    assert mixtral["parts"]["ffn"] == round(0.15 * 2 * 32 * 3 * 4096 * 14_336)
    without, everything = (
        mixtral["countings"]["attention + active FFN + predictors"],
        mixtral["countings"]["attention + active FFN + predictors + both embeddings"],
    )
    assert without == pytest.approx(4.3e9, rel=0.02)
    assert everything == pytest.approx(4.5e9, rel=0.02)
    assert "2.5B" in written(result, tmp_path)


def test_models_are_labelled_and_must_differ():
    assert labelled_folders(["A=x/y=z", "runs/b"]) == {"A": "x/y=z", "b": "runs/b"}
    with pytest.raises(DataError, match="LABEL=DIR"):
        labelled_folders(["x/model", "y/model"])
    with pytest.raises(DataError, match="at least one model"):
        labelled_folders([])


def test_a_table_that_needs_text_asks_for_it(request_of, tmp_path):
    with pytest.raises(DataError, match="--text"):
        next(analysed_models(request_of(text=None), AnalysisPlan()))


def test_the_command_writes_files_and_prints_json(tmp_path):
    ended = CliRunner().invoke(app, ["activated", "--out", str(tmp_path), "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout.splitlines()[-1])["name"] == "activated"
    assert {path.name for path in tmp_path.iterdir()} == {"activated.json", "activated.md"}
