"""The engine's figures are compared with ours, and a real PowerInfer decodes what we export."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, linear, relu

from turbosparse.errors import ArtifactError, ConfigError, DataError
from turbosparse.export.powerinfer import PowerInferOptions, export_powerinfer
from turbosparse.export.powerinfer.engine import (
    engine_perplexity,
    find_program,
    predicted_perplexity,
    window_perplexity,
)

ENGINE = os.environ.get("TURBOSPARSE_POWERINFER")
"""A PowerInfer build folder, for the test that decodes with it."""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} is a number, and some text to learn from\n" for number in range(150)))
    return path


def program(tmp_path, script):
    path = tmp_path / "perplexity"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_perplexity_is_over_the_second_half_of_each_window(make_model):
    model = make_model()
    windows = torch.randint(0, 300, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [
            cross_entropy(model(input_ids=window[None]).logits[0, place], window[place + 1]).item()
            for window in windows
            for place in range(8, 15)
        ]
    assert window_perplexity(model, windows) == pytest.approx(math.exp(sum(losses) / len(losses)))


def test_predicted_perplexity_leaves_out_what_the_predictors_leave_out(make_model):
    model = make_model(predictor_threshold=[0.25, 0.5])
    windows = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    whole, found = window_perplexity(model, windows), predicted_perplexity(model, windows)
    for layer, threshold in zip(model.model.layers, (0.25, 0.5), strict=True):
        ffn = layer.mlp

        def masked(x, read, ffn=ffn, threshold=threshold):
            logits = linear(relu(linear(read, ffn.predictor.fc1.weight)), ffn.predictor.fc2.weight)
            return ffn.down_proj(relu(ffn.gate_proj(x)) * relu(ffn.up_proj(x)) * (logits > threshold))

        ffn.forward = masked
    expected = window_perplexity(model, windows)
    assert found == pytest.approx(expected)
    assert found != pytest.approx(whole)


def test_the_program_is_found_in_a_build_folder(tmp_path):
    (tmp_path / "build" / "bin").mkdir(parents=True)
    made = program(tmp_path / "build" / "bin", "exit 0")
    assert find_program(tmp_path) == find_program(tmp_path / "build") == find_program(made) == made.resolve()
    with pytest.raises(ConfigError, match="--engine"):
        find_program(tmp_path / "build" / "lib")


def test_the_threshold_reaches_the_engine_and_nothing_else_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    made = program(
        tmp_path, 'echo "Final estimate: PPL = 1${LLAMA_SPARSE_PRED_THRESHOLD#-}.5${HF_TOKEN} +/- 1"'
    )
    text = tmp_path / "text.txt"
    assert engine_perplexity(made, tmp_path / "model", text, 64, threshold=-22) == 122.5
    assert engine_perplexity(made, tmp_path / "model", text, 64) == 1.5


def test_the_log_that_the_engine_leaves_lies_beside_the_text(tmp_path):
    (tmp_path / "scratch").mkdir()
    made = program(tmp_path, 'touch llama.log; echo "Final estimate: PPL = 1.5 +/- 1"')
    engine_perplexity(made, tmp_path / "model", tmp_path / "scratch" / "text.txt", 64)
    assert (tmp_path / "scratch" / "llama.log").exists()


@pytest.mark.parametrize("script", ["exit 1", "echo 'you need at least 1024 tokens'", "echo 'PPL = nan'"])
def test_an_engine_without_a_figure_is_an_error(tmp_path, script):
    with pytest.raises(ArtifactError, match="--engine"):
        engine_perplexity(program(tmp_path, script), tmp_path / "model", tmp_path / "text.txt", 64)


def test_an_engine_that_decodes_another_model_leaves_nothing(make_folder, text, tmp_path):
    made = program(tmp_path, 'echo "Final estimate: PPL = ${LLAMA_SPARSE_PRED_THRESHOLD:+9}5.0 +/- 1"')
    options = PowerInferOptions(engine=made, engine_text=text)
    with pytest.raises(ArtifactError, match="keep-all perplexity: 95"):
        export_powerinfer(make_folder(), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_short_is_refused(make_folder, tmp_path):
    made, text = program(tmp_path, "exit 0"), tmp_path / "short.txt"
    text.write_text("some text")
    with pytest.raises(DataError, match=r"--engine-text.*at least 128 tokens"):
        export_powerinfer(make_folder(), tmp_path / "out", PowerInferOptions(engine=made, engine_text=text))


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["f16", "q4_0"])
def test_powerinfer_decodes_the_model_that_was_exported(make_folder, text, tmp_path, quantization):
    """More than 1,000 neurons: the engine skips rows, and thresholds and ranks differ by layer."""
    if ENGINE is None:
        pytest.skip("needs a built PowerInfer, in TURBOSPARSE_POWERINFER")
    source = make_folder(intermediate_size=1_280, rank=[32, 64], predictor_threshold=[0.25, 0.5])
    options = PowerInferOptions(quantization, engine=Path(ENGINE), engine_text=text)
    found = export_powerinfer(source, tmp_path / "out", options)["perplexity"]
    within = 0.01 if quantization == "f16" else 0.05
    assert found["engine_keep_all"] == pytest.approx(found["our_dense"], rel=within)
    assert found["engine_predicted"] == pytest.approx(found["our_predicted"], rel=within)
    if quantization == "f16":  # in Q4_0 rounding is as large as what random predictors change
        assert found["engine_predicted"] != pytest.approx(found["our_dense"], rel=2 * within)
