"""Thresholds hold what was asked for, and no lower ones are taken than that needs."""

import json

import pytest
import torch

from turbosparse.config import ThresholdConfig
from turbosparse.model.observe import observe
from turbosparse.predictors.logits import EDGES, count_logits
from turbosparse.predictors.thresholds import choose_thresholds, write_thresholds


def said_by(model, num_windows=8, num_tokens=24):
    """Text sampled from the model: anything that is done to it makes that text less likely."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 64, (num_windows, 1))
    while tokens.shape[1] < num_tokens:
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return list(tokens)


@pytest.fixture
def seen(model, windows):
    """Each layer's logits and labels over all windows."""
    found = {}

    def look(activations):
        both = activations.predict().flatten(), (activations.combined > 0).flatten()
        found.setdefault(activations.layer, []).append(both)

    with observe(model, look), torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return {layer: [torch.cat(part) for part in zip(*both, strict=True)] for layer, both in found.items()}


def test_counts_tell_every_thresholds_outcome(model, windows, seen):
    counts = count_logits(model, windows)
    for layer, (logits, active) in seen.items():
        for edge in (300, 512, 530):
            predicted = logits > EDGES[edge]
            recall = (predicted & active).sum() / active.sum()
            assert float(counts[layer].recall[edge]) == pytest.approx(float(recall))
            assert float(counts[layer].predicted_active_ratio[edge]) == pytest.approx(
                float(predicted.float().mean())
            )
        assert counts[layer].true_active_ratio == pytest.approx(float(active.float().mean()))


def test_every_layer_has_the_wanted_recall_at_the_highest_threshold_that_gives_it(model, windows, seen):
    config = ThresholdConfig(min_recall=0.9, max_perplexity_ratio=None)
    chosen = choose_thresholds(model, windows, config)
    for layer, threshold in enumerate(chosen.by_layer.thresholds):
        logits, active = seen[layer]
        found = [int((active & (logits > limit)).sum()) for limit in (threshold, threshold + 1 / 32)]
        assert found[0] >= 0.9 * int(active.sum()) > found[1]
    assert chosen.overall.recall >= 0.9
    assert len(set(chosen.overall.thresholds)) == 1


def test_a_stricter_perplexity_buys_a_larger_prediction(model):
    windows = said_by(model)
    loose = choose_thresholds(model, windows, ThresholdConfig(max_perplexity_ratio=None))
    limit = 1 + (loose.by_layer.perplexity_ratio - 1) / 4
    assert limit > 1, "the case says nothing if masking does no harm"
    strict = choose_thresholds(model, windows, ThresholdConfig(max_perplexity_ratio=limit))
    assert strict.by_layer.perplexity_ratio <= limit
    assert strict.by_layer.predicted_active_ratio > loose.by_layer.predicted_active_ratio
    tried = strict.curve[: strict.curve.index(strict.by_layer)]
    assert all(point.perplexity_ratio > limit for point in tried), "it stops at the first that holds"


def test_chosen_thresholds_reach_the_folder_and_nothing_else_changes(model, windows, tmp_path):
    model.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    chosen = choose_thresholds(model, windows, ThresholdConfig(max_perplexity_ratio=None))
    write_thresholds(model, chosen, tmp_path)
    after = json.loads((tmp_path / "config.json").read_text())
    assert after.pop("predictor_threshold") == list(chosen.by_layer.thresholds)
    assert after.pop("predictor_global_threshold") == chosen.overall.thresholds[0]
    assert [model.config.threshold_of(layer) for layer in range(3)] == list(chosen.by_layer.thresholds)
    del before["predictor_threshold"], before["predictor_global_threshold"]
    assert after == before
