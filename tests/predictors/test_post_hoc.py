"""Fitting after the fact: within its disk budget, resumable, and better than knowing the base rate."""

import math

import pytest
import torch

from turbosparse.config import PredictorConfig
from turbosparse.errors import ConfigError, DataError
from turbosparse.model.observe import observe
from turbosparse.predictors.post_hoc import fit_predictors, fitted_records
from turbosparse.predictors.states import collect_states, shape_of, units_of

RANKS = (8, 16, 8)
NUM_TOKENS = 8 * 24


def configured(**changes) -> PredictorConfig:
    post_hoc = {"num_tokens": NUM_TOKENS, "num_epochs": 6, "batch_size_tokens": 32, **changes}
    return PredictorConfig(method="post_hoc", rank=RANKS, learning_rate=1e-2, post_hoc=post_hoc)


class Killed(BaseException):
    """Stands for a signal that ends the process."""


def test_states_are_what_the_ffns_read_and_did(make_model, kind, windows, tmp_path):
    model = make_model(kind)
    expected = {}

    def look(activations):
        rows = activations.read(), activations.combined > 0
        expected.setdefault((activations.layer, activations.expert), []).append(rows)

    with observe(model, look), torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    collected = collect_states(model, windows, units_of(model), configured(), tmp_path)
    assert len(collected) == len(expected)
    for states in collected:
        hidden, active = (
            torch.cat(part) for part in zip(*expected[states.unit.layer, states.unit.expert], strict=True)
        )
        assert states.num_rows == len(hidden), "a row that was never written would be one without labels"
        stored_hidden, stored_active = states.rows(slice(None))
        torch.testing.assert_close(stored_hidden, hidden, rtol=0, atol=0)
        torch.testing.assert_close(stored_active, active)


def test_fitted_predictors_know_more_than_how_often_neurons_are_active(make_model, windows, tmp_path):
    model = make_model("dense")
    text = list(torch.randint(0, 64, (30, 60), generator=torch.Generator().manual_seed(2)))
    config = configured(num_tokens=1_800, num_epochs=12)
    widened = fit_predictors(model, lambda: iter(text), config, (32, 32, 32), tmp_path)
    assert widened.config.predictor_rank == [32, 32, 32]
    hits = active = predicted = total = 0

    def look(activations):
        nonlocal hits, active, predicted, total
        guess, truth = activations.predict() > 0, activations.combined > 0
        hits += int((guess & truth).sum())
        active, predicted = active + int(truth.sum()), predicted + int(guess.sum())
        total += truth.numel()

    with observe(widened, look), torch.no_grad():
        for window in windows:
            widened(input_ids=window[None], use_cache=False)
    assert hits / active > 0.6, "a base rate of a quarter finds nothing at threshold 0"
    assert hits / predicted > 0.6
    for record in fitted_records(model, tmp_path):
        base_rate = active / total
        assert record["held_back_loss"] < -(
            base_rate * math.log(base_rate) + (1 - base_rate) * math.log(1 - base_rate)
        )


def test_disk_stays_within_its_budget_and_the_result_is_the_same(
    make_model, kind, windows, tmp_path, monkeypatch
):
    model = make_model(kind)
    whole = fit_predictors(model, lambda: iter(windows), configured(), RANKS, tmp_path / "whole")
    rows_per_token = 1 if kind == "dense" else 2
    one_layer = NUM_TOKENS * rows_per_token * shape_of(model).row_bytes
    used = []

    def measure(progress):
        used.append(sum(file.stat().st_size for file in (tmp_path / "parts").glob("pass-*/*s")))

    config = configured()
    budget = config.post_hoc.model_copy(update={"disk_budget_bytes": int(1.5 * one_layer)})
    config = config.model_copy(update={"post_hoc": budget})
    parts = fit_predictors(
        model, lambda: iter(windows), config, RANKS, tmp_path / "parts", on_progress=measure
    )
    assert max(used) <= one_layer
    assert not list((tmp_path / "parts").glob("pass-*"))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0)


def test_a_killed_run_goes_on_with_the_unit_it_was_in(make_model, kind, windows, tmp_path):
    model, heard, passes = make_model(kind), [], []
    whole = fit_predictors(model, lambda: iter(windows), configured(), RANKS, tmp_path / "whole")

    def kill_at_first(progress):
        heard.append(progress)
        if len(heard) == 1:
            raise Killed

    def text():
        passes.append(len(heard))
        yield from windows

    work = tmp_path / "killed"
    with pytest.raises(Killed):
        fit_predictors(model, text, configured(), RANKS, work, on_progress=kill_at_first)
    done = {file.name: file.stat().st_mtime_ns for file in work.glob("*.safetensors")}
    # The one after it may have begun already.
    assert 1 <= len(done) <= 2 < len(units_of(model)), "what had not begun is not waited for"
    resumed = fit_predictors(model, text, configured(), RANKS, work, on_progress=heard.append)
    assert {name: (work / name).stat().st_mtime_ns for name in done} == done, "nothing is fitted twice"
    assert passes == [0], "nor is the text run through the model again"
    assert heard[-1].completed == heard[-1].total == len(units_of(model))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0)


def test_a_pass_that_was_cut_off_is_collected_again(make_model, windows, tmp_path):
    model = make_model("dense")

    def cut_off():
        yield windows[0]
        raise Killed

    with pytest.raises(Killed):
        collect_states(model, cut_off(), units_of(model), configured(), tmp_path)
    states = collect_states(model, windows, units_of(model), configured(), tmp_path)
    assert {one.num_rows for one in states} == {NUM_TOKENS}
    assert len(states[0].rows(slice(None))[0]) == NUM_TOKENS


def test_what_can_not_work_is_explained(make_model, windows, tmp_path):
    model = make_model("dense")
    config = configured(num_tokens=10_000_000, disk_budget_bytes=1_000_000)
    with pytest.raises(ConfigError, match="disk_budget_bytes"):
        fit_predictors(model, lambda: iter(windows), config, RANKS, tmp_path / "disk")
    with pytest.raises(DataError, match="more text"):
        fit_predictors(model, lambda: iter([windows[0][:2]]), configured(), RANKS, tmp_path / "text")
