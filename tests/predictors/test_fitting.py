"""A folder with predictors: whole or not there, loadable, decodable, and resumed where it was."""

import json

import pytest
import torch

from turbosparse.config import PredictorConfig
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import ArtifactError, DataError, ModelError
from turbosparse.fitting import REPORT_NAME, fit_folder, fitting_text
from turbosparse.inference.modules import decoding
from turbosparse.model.folder import as_turbosparse, load_model, save_model
from turbosparse.model.rewrite import write_released
from turbosparse.reproduce.common import Request, write_reproduction
from turbosparse.reproduce.predictors import reproduce

CONFIG = PredictorConfig(
    method="post_hoc",
    parameter_ratio=0.8,
    learning_rate=1e-2,
    post_hoc={"num_tokens": 400, "num_epochs": 3, "batch_size_tokens": 64},
    threshold={"num_tokens": 100, "max_perplexity_ratio": None},
)


@pytest.fixture
def folder(make_model, request, tmp_path):
    """A dense model's, unless a test asks for experts."""
    model = make_model(getattr(request, "param", "dense"), bos_token_id=1, eos_token_id=2)
    tokenizer = train_tokenizer(["the old fox sees the red owl at noon. "] * 20, 300)
    model.resize_token_embeddings(320)
    save_model(model, tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("folder", ["dense", "experts"], indirect=True)
def test_the_written_folder_decodes_with_its_predictors(folder, tmp_path):
    report = fit_folder(str(folder), tmp_path / "made", None, CONFIG)
    model = load_model(tmp_path / "made")
    assert model.config.predictor_rank == report["predictor_ranks"]
    assert model.config.predictor_threshold == report["thresholds"]
    assert model.config.predictor_global_threshold == report["global_threshold"]
    with decoding(model, "predicted"), torch.no_grad():
        assert model(input_ids=torch.tensor([[5]]), use_cache=False).logits.isfinite().all()
    untouched = load_model(folder).state_dict()
    for name, weight in model.state_dict().items():
        assert ".predictor." in name or torch.equal(untouched[name], weight)
    written = json.loads((tmp_path / "made" / REPORT_NAME / "predictors.json").read_text())
    assert written["quality"]["recall"] == report["recall"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"], "no work is left behind"


def test_thresholds_may_stay_what_the_released_layouts_know(folder, tmp_path):
    threshold = CONFIG.threshold.model_copy(update={"keep_zero": True})
    report = fit_folder(
        str(folder), tmp_path / "made", None, CONFIG.model_copy(update={"threshold": threshold})
    )
    assert report["thresholds"] == [0.0, 0.0, 0.0]
    assert report["global_threshold"] is None
    write_released(tmp_path / "made", tmp_path / "released")
    released = load_model(tmp_path / "released").config
    assert [released.rank_of(layer) for layer in range(3)] == report["predictor_ranks"]


def test_parts_of_the_text_have_nothing_in_common(folder, tmp_path):
    text = tmp_path / "text.jsonl"
    rows = [f"number {n} is not number {n + 1}, says the owl" for n in range(60)]
    text.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    model = load_model(folder)
    found = fitting_text(model, str(folder), text, CONFIG)
    parts = [{tuple(window.tolist()) for window in part} for part in vars(found).values()]
    assert all(parts)
    assert sum(len(part) for part in parts) == len(set.union(*parts))
    assert min(sum(map(len, part)) for part in (found.choose, found.report)) >= 100
    short = tmp_path / "short.txt"
    short.write_text("a word or two\n")
    with pytest.raises(DataError, match="held back"):
        fitting_text(model, str(folder), short, CONFIG)


def test_a_killed_command_goes_on_and_leaves_nothing_half_made(folder, tmp_path):
    heard = []

    def stop_at_second(progress):
        if progress.stage == "predictors":
            heard.append(progress.completed)
            if len(heard) == 2:
                raise KeyboardInterrupt

    whole = fit_folder(str(folder), tmp_path / "whole", None, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        fit_folder(str(folder), tmp_path / "made", None, CONFIG, stop_at_second)
    assert not (tmp_path / "made").exists()
    report = fit_folder(str(folder), tmp_path / "made", None, CONFIG, stop_at_second)
    assert heard[2] >= 3, "the first two are not fitted again"
    assert report["fits"] == whole["fits"]
    assert report["thresholds"] == whole["thresholds"]


def test_bad_requests_write_nothing(folder, tmp_path):
    save_model(as_turbosparse(load_model(folder), "swiglu"), tmp_path / "swiglu")
    with pytest.raises(ModelError, match="exact zeros"):
        fit_folder(str(tmp_path / "swiglu"), tmp_path / "made", None, CONFIG)
    with pytest.raises(ArtifactError, match="empty"):
        fit_folder(str(folder), tmp_path / "swiglu", None, CONFIG)
    with pytest.raises(DataError, match="no such file"):
        fit_folder(str(folder), tmp_path / "made", tmp_path / "nothing.txt", CONFIG)
    assert not list(tmp_path.glob("made*"))


def test_both_ways_are_measured_on_the_same_text(folder, tmp_path):
    overrides = {
        "parameter_ratio": 0.8,
        "post_hoc": {"num_tokens": 400, "num_epochs": 2, "batch_size_tokens": 64},
        "threshold": {"num_tokens": 100, "max_perplexity_ratio": None},
    }
    result = reproduce(Request(out=tmp_path / "out", models=[str(folder)], overrides=overrides))
    joint, post_hoc = result.measured["joint"], result.measured["post-hoc"]
    assert joint["perplexity_exact"] == pytest.approx(post_hoc["perplexity_exact"])
    assert joint["true_active_ratio"] == pytest.approx(post_hoc["true_active_ratio"])
    assert (joint["num_passes"], post_hoc["num_passes"]) == (1.0, 2.0)
    assert len(result.rows) == 2
    assert len(write_reproduction(result, tmp_path / "out")) == 5
    lines = (tmp_path / "out" / "predictors-joint.csv").read_text().splitlines()
    assert len(lines) == 1 + len(joint["thresholds"]["curve"])
