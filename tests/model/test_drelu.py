"""The dReLU operator: equal to its definition, and leaner than what autograd would make of it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear, relu
from torch.utils.checkpoint import checkpoint
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralMLP

from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.drelu import ACTIVATIONS, activation_of, drelu, gated_linear
from turbosparse.model.mistral import GatedFFN
from turbosparse.model.mixtral import GatedExperts
from turbosparse.model.observe import observe

SIZES = {"hidden_size": 16, "intermediate_size": 32}


def reference(gate, up, weight):
    return linear(relu(gate) * relu(up), weight)


def inputs(dtype, num_tokens=24):
    torch.manual_seed(0)
    shapes = [(2, num_tokens // 2, 32), (2, num_tokens // 2, 32), (16, 32)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def ffn(activation="drelu", **fields):
    torch.manual_seed(0)
    return GatedFFN(TurboSparseMistralConfig(**SIZES, activation=activation, **fields), layer=0)


def gradients(function, *tensors):
    output = function(*tensors)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), tensors)]


def num_saved(function, numel):
    """Number of tensors of that size kept for backward, each counted once."""
    saved = {}
    with saved_tensors_hooks(lambda tensor: saved.setdefault(tensor.data_ptr(), tensor), lambda kept: kept):
        output = function()
    del output
    return [tensor.numel() for tensor in saved.values()].count(numel)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
def test_values_and_gradients_are_those_of_the_definition(dtype, tolerance):
    expected = gradients(reference, *inputs(dtype))
    for ours, theirs in zip(gradients(partial(gated_linear, drelu), *inputs(dtype)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_gradients_are_the_limit_of_differences():
    assert torch.autograd.gradcheck(partial(gated_linear, drelu), inputs(torch.float64, num_tokens=4))


def test_a_neuron_with_either_factor_closed_gets_no_gradient():
    gate = torch.tensor([[1.0, 1.0, -1.0, -1.0, 0.0, 2.0]], requires_grad=True)
    up = torch.tensor([[2.0, -2.0, 2.0, -2.0, 2.0, 0.0]], requires_grad=True)
    gated_linear(drelu, gate, up, torch.ones(1, 6)).backward()
    assert gate.grad.tolist() == [[2, 0, 0, 0, 0, 0]]
    assert up.grad.tolist() == [[1, 0, 0, 0, 0, 0]]


def test_only_two_tensors_of_the_intermediate_size_are_kept():
    gate, up, weight = inputs(torch.float32)
    assert num_saved(lambda: gated_linear(drelu, gate, up, weight), 24 * 32) == 2
    assert num_saved(lambda: reference(gate, up, weight), 24 * 32) == 3
    x, drelu_ffn, swiglu_ffn = torch.randn(24, 16), ffn(), MistralMLP(MistralConfig(**SIZES))
    assert num_saved(lambda: drelu_ffn(x, x), 24 * 32) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert num_saved(lambda: drelu_ffn(x, x), 24 * 32) == 2
    assert num_saved(lambda: swiglu_ffn(x), 24 * 32) == 4


def test_frozen_weights_get_no_gradient():
    gate, up, weight = inputs(torch.float32)
    weight.requires_grad_(False)
    gated_linear(drelu, gate, up, weight).sum().backward()
    assert weight.grad is None
    assert gate.grad.any()


def test_used_twice_in_one_graph_the_gradients_add_up():
    def twice(function, gate, up, weight):
        return function(gate, up, weight) + function(up * 2, gate, weight)

    expected = gradients(partial(twice, reference), *inputs(torch.float64))
    found = gradients(partial(twice, partial(gated_linear, drelu)), *inputs(torch.float64))
    torch.testing.assert_close(found, expected)


def test_differentiating_twice_is_refused_rather_than_wrong():
    gate, up, weight = inputs(torch.float32)
    output = gated_linear(drelu, gate, up, weight).sum()
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        torch.autograd.grad(output, gate, create_graph=True)


@pytest.mark.parametrize("activation", ["drelu", "swiglu"])
def test_under_autocast_an_ffn_is_as_linear_layers_make_it(activation):
    module, x = ffn(activation), torch.randn(8, 16, requires_grad=True)

    def plain(x):
        return module.down_proj(module.activation(module.gate_proj(x), module.up_proj(x)))

    results = []
    for function in (lambda x: module(x, x), plain):
        with torch.autocast("cpu", torch.bfloat16):
            output = function(x)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), [*module.parameters()])))
    assert results[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(results[0], results[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_ffn_compiles_whole_and_stays_the_same(activation):
    torch._dynamo.reset()
    module, x = ffn(activation), torch.randn(8, 16, requires_grad=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    tensors = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x, x).square().sum(), tensors)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, x).square().sum(), tensors), expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, x), module(x, x))


def test_compiled_it_keeps_no_more_than_swiglu():
    kept = {}
    for activation in ("drelu", "swiglu"):
        torch._dynamo.reset()
        x = torch.randn(24, 16, requires_grad=True)
        output = torch.compile(ffn(activation), fullgraph=True)(x, x)
        kept[activation] = [tuple(tensor.shape) for tensor in output.grad_fn.saved_tensors].count((24, 32))
    assert 0 < kept["drelu"] <= kept["swiglu"]


def test_a_compiled_ffn_has_one_kernel_of_its_own_each_way():
    """Beside the matrix products: the activation, and its gradients with the product made again."""
    from torch._inductor import metrics  # noqa: PLC0415 - heavy

    torch._dynamo.reset()
    metrics.reset()
    x = torch.randn(24, 16, requires_grad=True)
    torch.compile(ffn(), fullgraph=True)(x, x).sum().backward()
    assert metrics.generated_kernel_count == 2


def test_a_replaced_or_hooked_down_projection_is_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module, x = ffn(), torch.randn(8, 16)
    expected = 2 * module(x, x)
    hook = module.down_proj.register_forward_hook(lambda layer, args, output: 2 * output)
    torch.testing.assert_close(module(x, x), expected)
    hook.remove()
    weight = module.down_proj.weight
    module.down_proj = Doubled(32, 16, bias=False)
    module.down_proj.weight = weight
    torch.testing.assert_close(module(x, x), expected)


def test_other_activations_are_their_definitions():
    gate, up = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([3.0, -3.0, 3.0])
    assert ACTIVATIONS["reglu"](gate, up).tolist() == [6, -1.5, 0]
    config = TurboSparseMistralConfig(activation="shifted-relu", activation_shift=1.5)
    assert activation_of(config)(gate, up).tolist() == [1.5, 0, 0]
    assert ACTIVATIONS["shifted-relu"](gate, up).tolist() == [3, 0, 0]


def dense_model():
    return ffn(predictor_rank=4)


def routed_model(implementation):
    torch.manual_seed(0)
    config = TurboSparseMixtralConfig(
        **SIZES, num_local_experts=4, predictor_rank=4, experts_implementation=implementation
    )
    experts = GatedExperts(config, layer=0)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts


def run(module, x):
    if isinstance(module, GatedFFN):
        return module(x, x)
    weights, experts = (x[:, :4] * torch.tensor([1.0, -1.0, 2.0, 0.0])).softmax(-1).topk(2)
    return module(x, experts, weights)


@pytest.mark.parametrize("kind", ["dense", "eager", "grouped_mm"])
@pytest.mark.parametrize("use_reentrant", [False, None], ids=["checkpointed", "plain"])
@pytest.mark.parametrize("observed_backward", [False, True])
def test_observed_under_checkpointing_each_activation_is_seen_once(kind, use_reentrant, observed_backward):
    """Gradients of the model's loss, of the predictors' and of one on h must be those without observing
    or checkpointing, whether or not the observer is still there during backward."""
    module = dense_model() if kind == "dense" else routed_model(kind)
    x = torch.randn(12, 16, requires_grad=True)
    seen, losses = [], []

    def look(activations):
        seen.append((activations.expert, activations.combined.detach()))
        losses.append(activations.predict().square().sum() + activations.combined.sum())

    def step(wrapped):
        with observe(module, look):
            loss = wrapped(x).square().sum() + torch.stack(losses).sum()
            if observed_backward:
                loss.backward()
        if not observed_backward:
            loss.backward()
        result = [x.grad, *(parameter.grad for parameter in module.parameters())]
        x.grad = None
        module.zero_grad()
        return result

    expected = step(partial(run, module))
    num_seen = len(seen)
    assert num_seen == (1 if kind == "dense" else len({expert for expert, _ in seen}))
    losses.clear()
    forward = partial(run, module)
    if use_reentrant is False:
        forward = partial(checkpoint, forward, use_reentrant=False)
    torch.testing.assert_close(step(forward), expected)
    assert len(seen) == 2 * num_seen, "an activation was shown twice, or not at all"
