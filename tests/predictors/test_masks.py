"""A masked model passes on what its predictors keep, and nothing else."""

import pytest
import torch

from turbosparse.analysis.topk import measure_perplexity
from turbosparse.errors import ModelError
from turbosparse.inference.modules import decoding
from turbosparse.predictors.masks import predicted_only, straight_through
from turbosparse.predictors.quality import measure_quality

KEEP_ALL, KEEP_NONE = -1e9, 1e9


def logits_of(model, window):
    with torch.no_grad():
        return model(input_ids=window[None], use_cache=False).logits


def test_keeping_all_is_the_model_itself_and_keeping_none_is_no_ffn(model, windows):
    with predicted_only(model, dict.fromkeys(range(3), KEEP_ALL)):
        kept = logits_of(model, windows[0])
    torch.testing.assert_close(kept, logits_of(model, windows[0]))
    with predicted_only(model, dict.fromkeys(range(3), KEEP_NONE)):
        dropped = logits_of(model, windows[0])
    for layer in model.model.layers:
        experts = getattr(layer.mlp, "experts", layer.mlp)
        weight = experts.down_proj if hasattr(layer.mlp, "experts") else experts.down_proj.weight
        torch.nn.init.zeros_(weight)
    torch.testing.assert_close(dropped, logits_of(model, windows[0]))


def test_the_mask_is_what_the_decoder_computes(model, windows):
    """Token by token, the sparse decoder must give the logits of the masked window."""
    model.config.predictor_threshold = [0.0, 0.25, -0.5]
    tokens = windows[0][:6]
    with predicted_only(model), torch.no_grad():
        masked = model(input_ids=tokens[None], use_cache=False).logits[0]
    with decoding(model, "predicted"), torch.no_grad():
        cache, decoded = None, []
        for token in tokens:
            output = model(input_ids=token[None, None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            decoded.append(output.logits[0, -1])
    torch.testing.assert_close(torch.stack(decoded), masked, atol=1e-4, rtol=1e-4)


def test_the_straight_through_mask_is_hard_and_learns_as_if_it_were_soft():
    logits = torch.tensor([-2.0, -0.1, 0.1, 3.0], requires_grad=True)
    mask = straight_through(logits)
    torch.testing.assert_close(mask, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    mask.sum().backward()
    soft = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, soft * (1 - soft))


def test_quality_shows_recall_size_and_perplexity_together(model, windows):
    model.config.predictor_threshold = KEEP_ALL
    quality, _ = measure_quality(model, windows)
    assert (quality["recall"], quality["predicted_active_ratio"]) == (1.0, 1.0)
    assert quality["precision"] == pytest.approx(quality["true_active_ratio"])
    assert quality["perplexity_exact"] == pytest.approx(measure_perplexity(model, windows).perplexity)
    assert quality["perplexity_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert len(quality["experts"]) == (12 if hasattr(model.config, "num_local_experts") else 0)


def test_a_model_without_predictors_is_refused(make_model, kind, windows):
    with pytest.raises(ModelError, match="predictors"):
        measure_quality(make_model(kind), windows)
