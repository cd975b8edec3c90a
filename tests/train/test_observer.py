"""Predictors train beside the model: without steering it, without padding, and masked only when asked to."""

import pytest
import torch
from transformers import set_seed

from turbosparse.config import PredictorConfig
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM
from turbosparse.train.observer import TrainingObserver

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "predictor_rank": 8,
    "initializer_range": 0.3,
}


def make(kind):
    set_seed(0)
    if kind == "dense":
        return TurboSparseMistralForCausalLM(TurboSparseMistralConfig(**SHAPE)).train()
    config = TurboSparseMixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
    return TurboSparseMixtralForCausalLM(config).train()


@pytest.fixture(params=["dense", "experts"])
def model(request):
    return make(request.param)


@pytest.fixture
def tokens():
    return torch.randint(0, 48, (2, 20), generator=torch.Generator().manual_seed(5))


def run(model, observer, tokens, is_real=None, with_text_loss=True):
    """Returns the loss of the text and of the predictors after one forward and backward pass."""
    model.zero_grad()
    with observer.watching(model, observer, is_real):
        output = model(input_ids=tokens, labels=tokens, use_cache=False)
    predictor_loss = observer.predictor_loss()
    (predictor_loss + (output.loss if with_text_loss else 0)).backward()
    observer.unmask()
    return float(output.loss.detach()), float(predictor_loss.detach())


def gradients(model, of_predictors):
    return {
        name: weight.grad
        for name, weight in model.named_parameters()
        if (".predictor." in name) == of_predictors and weight.grad is not None
    }


def test_the_predictors_loss_does_not_steer_the_model(model, tokens):
    run(model, TrainingObserver(PredictorConfig(rank=8)), tokens, with_text_loss=False)
    assert all(float(grad.abs().sum()) > 0 for grad in gradients(model, of_predictors=True).values())
    assert all(float(grad.abs().sum()) == 0 for grad in gradients(model, of_predictors=False).values())


def test_padding_neither_teaches_nor_counts(model, tokens):
    is_real = torch.ones_like(tokens, dtype=torch.bool)
    is_real[:, 15:] = False
    other = torch.where(is_real, tokens, 7)
    losses, grads, counts = [], [], []
    for text in (tokens, other):
        observer = TrainingObserver(PredictorConfig(rank=8))
        losses.append(run(model, observer, text, is_real, with_text_loss=False)[1])
        grads.append(gradients(model, of_predictors=True))
        counts.append(observer.counts())
    assert losses[0] == pytest.approx(losses[1])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)
    assert counts[0].tolist() == counts[1].tolist()
    num_choices = 2 if hasattr(model.config, "num_local_experts") else 1
    assert int(counts[0][3]) == 30 * num_choices * 32 * 2, "tokens, experts per token, neurons, layers"
    cut = TrainingObserver(PredictorConfig(rank=8))
    assert run(model, cut, tokens[:, :15], with_text_loss=False)[1] == pytest.approx(losses[0])


def test_hits_are_counted_where_a_step_is_measured(model, tokens):
    observer = TrainingObserver(PredictorConfig(rank=8))
    run(model, observer, tokens)
    active, predicted, both, decisions = observer.counts().tolist()
    assert 0 < both <= min(active, predicted) < decisions
    observer.start_step(counts=False)
    run(model, observer, tokens)
    assert observer.counts().tolist() == [0, 0, 0, 0]


def test_the_mask_joins_after_its_share_of_the_steps(model, tokens):
    observer = TrainingObserver(PredictorConfig(rank=8, mask_after_ratio=0.5))
    plain, _ = run(model, observer, tokens)
    assert plain == pytest.approx(run(model, TrainingObserver(PredictorConfig(rank=8)), tokens)[0])
    before = gradients(model, of_predictors=True)
    observer.start_step(progress_ratio=0.5)
    masked, _ = run(model, observer, tokens)
    assert masked != pytest.approx(plain), "an untrained predictor lets go of much that is active"
    after = gradients(model, of_predictors=True)
    assert "forward" not in vars(model.model.layers[0].mlp), "unmasked, the model is what it was"
    assert any(not torch.allclose(after[name], before[name]) for name in before), "the text teaches it too"
    assert observer.counts()[0] > 0


def test_the_mask_keeps_the_cross_entropy_that_lets_neurons_go(model, tokens):
    """On the text's loss alone, nothing ever pulls the logit of an inactive neuron down."""
    observer = TrainingObserver(PredictorConfig(rank=8, mask_after_ratio=0.0))
    logits = []

    def look(activations):
        kept = activations.predict()
        kept.retain_grad()
        logits.append((kept, activations.combined.detach() == 0))
        observer(activations)

    with observer.watching(model, look):
        output = model(input_ids=tokens, labels=tokens, use_cache=False)
    output.loss.backward(retain_graph=True)
    assert all(float(kept.grad[inactive].abs().sum()) == 0 for kept, inactive in logits)
    observer.predictor_loss().backward()
    observer.unmask()
    assert all(bool((kept.grad[inactive] > 0).all()) for kept, inactive in logits)


@pytest.mark.parametrize("mask_after_ratio", [None, 0.0])
def test_checkpointed_layers_give_the_same_gradients(model, tokens, mask_after_ratio):
    config = PredictorConfig(rank=8, mask_after_ratio=mask_after_ratio)
    plain = TrainingObserver(config)
    losses = run(model, plain, tokens)
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = TrainingObserver(config)
    assert run(model, checkpointed, tokens) == pytest.approx(losses)
    assert checkpointed.counts().tolist() == plain.counts().tolist()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], msg=name)


def test_labels_above_a_threshold_are_fewer(model, tokens):
    counts = []
    for threshold in (0.0, 1.0):
        observer = TrainingObserver(PredictorConfig(rank=8, label_threshold=threshold))
        run(model, observer, tokens)
        counts.append(int(observer.counts()[0]))
    assert 0 < counts[1] < counts[0]
