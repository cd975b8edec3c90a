"""What a tap sees is what the FFN computes, and nothing of it stays."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, relu, silu
from transformers import GPT2Config, GPT2LMHeadModel

from turbosparse.analysis.taps import gated_units, tapped
from turbosparse.errors import ModelError
from turbosparse.model.convert import with_predictors
from turbosparse.model.observe import observe

PARTS = ("gate", "up", "combined")
FACTORS = {
    "swiglu": lambda gate, up: (silu(gate), up),
    "reglu": lambda gate, up: (relu(gate), up),
    "shifted-relu": lambda gate, up: (relu(gate - 1), up),
    "drelu": lambda gate, up: (relu(gate), relu(up)),
}


def seen_by_a_tap(model, tokens):
    seen = {}

    def tap(found):
        assert (found.layer, found.expert) not in seen
        seen[found.layer, found.expert] = found

    with torch.no_grad(), tapped(model, tap):
        model(tokens)
    return seen


def computed_by_hand(model, tokens):
    """Gate, up and combined by (layer, expert), from the inputs that the untouched FFNs get."""
    inputs = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: inputs.update({module: args}))
        for module in model.modules()
        if hasattr(module, "down_proj")
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    factors = FACTORS[getattr(model.config, "activation", "swiglu")]

    def parts(x, gate_weight, up_weight):
        gate, up = factors(linear(x, gate_weight), linear(x, up_weight))
        return gate, up, gate * up

    found = {}
    for layer, block in enumerate(model.model.layers):
        for name, module in block.mlp.named_modules():
            if module not in inputs:
                continue
            x = inputs[module][0].flatten(0, -2)
            if isinstance(module.down_proj, nn.Linear):
                expert = "shared" if "shared" in name else None
                found[layer, expert] = parts(x, module.gate_proj.weight, module.up_proj.weight)
                continue
            for expert, stacked in enumerate(module.gate_up_proj):
                mine = (inputs[module][1] == expert).any(-1)
                if mine.any():
                    found[layer, expert] = parts(x[mine], *stacked.chunk(2))
    return found


def test_gate_up_and_combined_are_those_of_a_direct_computation(model, tokens):
    seen, expected = seen_by_a_tap(model, tokens), computed_by_hand(model, tokens)
    assert seen.keys() == expected.keys()
    for key, parts in expected.items():
        for part, value in zip(PARTS, parts, strict=True):
            torch.testing.assert_close(getattr(seen[key], part), value, rtol=1e-4, atol=1e-5)


def test_shared_and_dense_ffns_are_told_from_routed_experts(make_model, tokens):
    experts = {expert for _, expert in seen_by_a_tap(make_model("qwen2_moe"), tokens)}
    assert {None, "shared", 0} <= experts
    assert {expert for _, expert in seen_by_a_tap(make_model("mistral"), tokens)} == {None}


@torch.no_grad()
def test_a_tapped_model_computes_the_same_and_is_itself_again(model, tokens):
    before = {module: dict(vars(module)) for module in model.modules()}
    logits = model(tokens).logits
    with tapped(model, lambda seen: None):
        torch.testing.assert_close(model(tokens).logits, logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(tokens).logits, logits)
    assert all(vars(module).keys() == before[module].keys() for module in model.modules())


def test_an_exception_inside_leaves_no_hook_and_an_earlier_wrapper_stays(make_model, tokens):
    model = make_model("mistral")
    ffn = model.model.layers[0].mlp
    ffn.forward = wrapper = partial(type(ffn).forward, ffn)
    with pytest.raises(RuntimeError, match="stop"), tapped(model, lambda seen: None):
        raise RuntimeError("stop")
    assert ffn.forward is wrapper
    assert "forward" not in vars(model.model.layers[1].mlp)


def test_what_a_tap_returns_is_what_the_down_projection_reads(model, tokens):
    """All activations at zero: the FFNs add nothing, whatever their weights."""
    with torch.no_grad():
        with tapped(model, lambda seen: torch.zeros_like(seen.combined)):
            silenced = model(tokens).logits
        for unit in gated_units(model):
            for parameter in unit.module.parameters():
                parameter.zero_()
        torch.testing.assert_close(model(tokens).logits, silenced, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("predictor_input", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("name", ["our drelu mistral", "our drelu mixtral"])
def test_predictors_read_what_they_read_in_the_model(name, predictor_input, make_model, tokens):
    source = make_model(name)
    source.config.predictor_input = predictor_input
    model = with_predictors(source, rank=4, seed=0).eval()
    observed = {}
    with torch.no_grad():
        with observe(model, lambda found: observed.update({(found.layer, found.expert): found.predict()})):
            model(tokens)
        for key, seen in seen_by_a_tap(model, tokens).items():
            torch.testing.assert_close(seen.predict(), observed[key], rtol=1e-4, atol=1e-5)


def test_models_without_gated_ffns_are_refused():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32))
    model.model = model.transformer
    model.model.layers = model.transformer.h
    with pytest.raises(ModelError, match="gate, up and down projection"):
        gated_units(model)


def test_experts_with_a_gating_formula_of_their_own_are_refused(make_model):
    model = make_model("mixtral")
    experts = model.model.layers[0].mlp.experts
    experts.__class__ = type("ClampedExperts", (type(experts),), {"_apply_gate": lambda self, out: out})
    with pytest.raises(ModelError, match="_apply_gate"):
        gated_units(model)
