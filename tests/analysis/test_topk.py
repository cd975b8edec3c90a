"""Equations 3 and 4: what a mask keeps, and what it does to a model."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from turbosparse.analysis.taps import tapped
from turbosparse.analysis.topk import keep_largest, measure_perplexity, topk_mask
from turbosparse.errors import DataError


@pytest.mark.parametrize(("kept_ratio", "num_kept"), [(0.5, 24), (0.1, 5), (0.7, 34), (0.001, 1), (1.0, 48)])
def test_each_token_keeps_exactly_k_of_its_largest_magnitudes_unchanged(kept_ratio, num_kept):
    combined = torch.randn(40, 48, generator=torch.Generator().manual_seed(0))
    masked = keep_largest(combined, kept_ratio)
    kept = masked != 0
    assert (kept.sum(-1) == num_kept).all()
    assert torch.equal(masked[kept], combined[kept])
    smallest_kept = combined.abs().where(kept, math.inf).amin(-1)
    assert (smallest_kept >= combined.abs().where(~kept, 0).amax(-1)).all()


def test_ties_do_not_keep_more():
    assert (keep_largest(torch.ones(3, 10), 0.5).sum(-1) == 5).all()


@torch.no_grad()
def test_keeping_all_is_the_model_itself(model, tokens):
    with topk_mask(model, 1.0):
        masked = model(tokens).logits
    torch.testing.assert_close(masked, model(tokens).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_mask_acts_in_every_ffn_and_expert(model, tokens):
    """The masked model is the one whose every FFN reads the masked activations."""
    before = model(tokens).logits
    with tapped(model, lambda seen: keep_largest(seen.combined, 0.2)):
        expected = model(tokens).logits
    with topk_mask(model, 0.2):
        masked = model(tokens).logits
    assert torch.equal(masked, expected)
    assert not torch.allclose(masked, before, atol=1e-3)
    assert torch.equal(model(tokens).logits, before)


@torch.no_grad()
def test_zeros_are_dropped_before_anything_else(make_model, tokens):
    """A dReLU model at 75% zeros does not notice a mask that drops half: Table 3's flat start."""
    model = make_model("our drelu mistral")
    with topk_mask(model, 0.5):
        masked = model(tokens).logits
    torch.testing.assert_close(masked, model(tokens).logits)


@pytest.mark.parametrize("kept_ratio", [0.0, -0.5, 1.5])
def test_other_ratios_are_refused(kept_ratio, make_model):
    with pytest.raises(DataError, match="kept_ratio"), topk_mask(make_model("llama"), kept_ratio):
        pass


@torch.no_grad()
def test_perplexity_weighs_tokens_not_windows(make_model):
    model = make_model("llama")
    windows = [torch.randint(0, 96, (length,)) for length in (3, 30)]
    losses = [cross_entropy(model(w[None]).logits[0, :-1], w[1:], reduction="none") for w in windows]
    found = measure_perplexity(model, windows)
    assert found.num_predicted_tokens == 31
    assert found.perplexity == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-5)
