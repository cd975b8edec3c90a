"""Activated parameters of dense models and mixtures of experts."""

import pytest
import torch

from turbosparse.analysis.activity import FFNActivity
from turbosparse.analysis.parameters import activated_parameters, predictor_parameters
from turbosparse.model.convert import with_predictors


def every_neuron_at(ratio, model):
    return [
        FFNActivity(layer, 1 - ratio, ratio, None, None, None)
        for layer in range(model.config.num_hidden_layers)
    ]


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_all_active_the_parts_are_the_model_less_unrouted_experts_and_unread_rows(model):
    counted = activated_parameters(model, every_neuron_at(1.0, model))
    unread = model.get_input_embeddings().weight[1:].numel()
    for block in model.model.layers:
        experts = getattr(block.mlp, "experts", None)
        if experts is not None:
            num_experts = len(experts.gate_up_proj)
            unread += size(experts) * (num_experts - model.config.num_experts_per_tok) // num_experts
    assert counted.total == size(model) - unread


def test_active_neurons_scale_the_ffn_alone(model):
    whole = activated_parameters(model, every_neuron_at(1.0, model))
    tenth = activated_parameters(model, every_neuron_at(0.1, model))
    assert tenth.ffn == pytest.approx(whole.ffn / 10, abs=1)
    assert (tenth.attention, tenth.router, tenth.embeddings) == (
        whole.attention,
        whole.router,
        whole.embeddings,
    )


def test_routers_belong_to_mixtures_and_shared_experts_to_the_ffn(make_model):
    dense, mixture = make_model("mistral"), make_model("qwen2_moe")
    assert activated_parameters(dense, every_neuron_at(0.5, dense)).router == 0
    counted = activated_parameters(mixture, every_neuron_at(1.0, mixture))
    block = mixture.model.layers[1].mlp
    assert counted.router == size(block.gate) + size(block.shared_expert_gate)
    dense_layer, routed, shared = 3 * 48 * 32, 3 * 3 * 20 * 32, 3 * 28 * 32
    assert counted.ffn == dense_layer + routed + shared


def test_a_token_reads_the_routed_experts_predictors(make_model):
    for name, num_routed in (("our drelu mistral", 1), ("our drelu mixtral", 2)):
        model = with_predictors(make_model(name), rank=4, seed=0)
        counted = activated_parameters(model, every_neuron_at(0.2, model))
        assert counted.predictor == predictor_parameters(32, 48, [4, 4], num_routed)


def test_shapes_are_enough(make_model):
    model = make_model("our drelu mixtral")
    on_cpu = activated_parameters(model, every_neuron_at(0.15, model))
    assert activated_parameters(model.to(torch.device("meta")), every_neuron_at(0.15, model)) == on_cpu
