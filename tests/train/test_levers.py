"""Levers beyond the paper: what each adds to a training step, and that it is without effect when off."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, silu

from turbosparse.config import TrainConfig
from turbosparse.config.levers import (
    ActivationScheduleConfig,
    DistillationConfig,
    SequenceWarmupConfig,
    SparsityPenaltyConfig,
)
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.drelu import drelu
from turbosparse.model.folder import as_turbosparse, save_model
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM
from turbosparse.model.observe import observe
from turbosparse.train.levers import Levers, distillation_loss, load_teacher
from turbosparse.train.levers.distillation import hidden_loss, hidden_weight
from turbosparse.train.levers.penalty import warmed_up
from turbosparse.train.levers.schedule import BlendedActivation
from turbosparse.train.levers.sequences import cut

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
}
RECIPE = {"num_steps": 10, "batch_size_sequences": 3, "learning_rate": 1e-3, "warmup_steps": 0}


@pytest.fixture(params=["mistral", "mixtral"])
def model(request):
    torch.manual_seed(0)
    if request.param == "mistral":
        config = TurboSparseMistralConfig(**SHAPE, activation="drelu", initializer_range=0.3)
        return TurboSparseMistralForCausalLM(config).train()
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = TurboSparseMixtralConfig(**SHAPE, **experts, activation="drelu", initializer_range=0.3)
    return TurboSparseMixtralForCausalLM(config).train()


@pytest.fixture
def batch():
    return {"input_ids": torch.randint(3, 50, (3, 12), generator=torch.Generator().manual_seed(1))}


def recipe(**levers) -> TrainConfig:
    return TrainConfig(**RECIPE, **levers)


def penalised_gradients(model, batch, config) -> dict[str, torch.Tensor]:
    levers = Levers(recipe(sparsity_penalty=config), model, None)
    levers.start_step(0.5)
    model.zero_grad()
    with observe(model, levers.look):
        outputs = model(**batch, use_cache=False)
    language_model = cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
    (language_model + levers.losses(outputs, batch, 33)["sparsity_penalty"]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_without_levers_a_step_is_the_papers(model, batch):
    levers = Levers(recipe(), model, None)
    levers.start_step(0.5)
    assert levers.language_model_weight == 1
    assert not levers.watches
    assert levers.losses(model(**batch), batch, 33) == {}
    assert all(ffn.activation is drelu for ffn in model.modules() if hasattr(ffn, "activation"))


def test_distillation_is_the_kl_divergence_over_supervised_tokens(batch):
    generator = torch.Generator().manual_seed(2)
    logits, original = (torch.randn(3, 12, 50, generator=generator) for _ in range(2))
    labels = batch["input_ids"].clone()
    labels[0, :5] = -100
    labels[2] = -100
    expected = 0.0
    for row, place in [(row, place) for row in range(3) for place in range(11)]:
        if labels[row, place + 1] != -100:
            theirs = log_softmax(original[row, place] / 2, dim=-1)
            ours = log_softmax(logits[row, place] / 2, dim=-1)
            expected += 4 * float((theirs.exp() * (theirs - ours)).sum())
    found = distillation_loss(logits, original, labels, temperature=2.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_distillation_leads_to_the_original_not_away(model, batch):
    teacher = as_turbosparse(model, "swiglu").eval()
    teacher = type(model)(teacher.config).eval().requires_grad_(False)
    teacher.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    levers = Levers(recipe(distillation=DistillationConfig(weight=0.75)), model, teacher)
    assert levers.language_model_weight == 0.25
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = []
    for _ in range(12):
        (loss,) = levers.losses(model(**batch), batch, 33).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.7 * found[0]
    exact = distillation_loss(teacher(**batch).logits, teacher(**batch).logits, batch["input_ids"], 1.0)
    assert float(exact) == pytest.approx(0, abs=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_hidden_term_is_relative_to_the_original_layer_by_layer():
    original = [torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), 100.0)]
    states = [original[0] + 1, original[1] - 10]
    assert float(hidden_loss(states, original)) == pytest.approx((1 / 4 + 1 / 100) / 2)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_hidden_states_teach_every_layer_but_the_embedding(model, batch, checkpointed):
    teacher = as_turbosparse(model, "swiglu")
    teacher = type(model)(teacher.config).eval().requires_grad_(False)
    teacher.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    config = DistillationConfig(weight=1e-9, hidden_weight=5.0)
    levers = Levers(recipe(distillation=config), model, teacher)
    levers.start_step(0.9)
    assert levers.wants_hidden_states
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    outputs = model(**batch, output_hidden_states=True, use_cache=False)
    assert len(outputs.hidden_states) == 1 + SHAPE["num_hidden_layers"]
    term = levers.losses(outputs, batch, 33)["hidden_states"]
    term.backward()
    expected = 0.0
    theirs = teacher(**batch, output_hidden_states=True).hidden_states
    for ours, original in zip(outputs.hidden_states[1:], theirs[1:], strict=True):
        expected += 5 * float((ours - original).detach().square().sum() / original.square().sum()) / 2
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {f"model.layers.{layer}.input_layernorm.weight" for layer in range(2)} <= touched


def test_the_hidden_term_falls_and_then_costs_nothing(model, batch):
    teacher = as_turbosparse(model, "swiglu").eval()
    config = DistillationConfig(hidden_weight=8.0, hidden_share_of_steps=0.5)
    assert [hidden_weight(config, step / 8) for step in (0, 2, 4, 7)] == pytest.approx([8.0, 4.0, 0.0, 0.0])
    levers = Levers(recipe(distillation=config), model, teacher)
    levers.start_step(0.5)
    assert not levers.wants_hidden_states
    assert "hidden_states" not in levers.losses(model(**batch), batch, 33)


def test_a_teacher_is_frozen_and_knows_tokens_that_were_added(model, tmp_path):
    save_model(as_turbosparse(model, "swiglu"), tmp_path)
    teacher = load_teacher(tmp_path, vocab_size=53)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    logits = teacher(input_ids=torch.tensor([[1, 52, 4]])).logits
    assert logits.shape == (1, 3, 53)


def test_the_penalty_is_the_mean_magnitude_over_everything_observed(model, batch):
    seen = []
    with observe(model, lambda activations: seen.append(activations.combined.detach())), torch.no_grad():
        model(**batch)
    levers = Levers(recipe(sparsity_penalty=SparsityPenaltyConfig(weight=3.0)), model, None)
    assert levers.watches
    for progress_ratio, share in ((0.0, 0.0), (0.15, 0.5), (0.3, 1.0), (0.9, 1.0)):
        levers.start_step(progress_ratio)
        with observe(model, levers.look):
            outputs = model(**batch)
        found = float(levers.losses(outputs, batch, 33)["sparsity_penalty"].detach())
        assert found == pytest.approx(share * 3 * float(torch.cat(seen).abs().mean()), rel=1e-5)


def test_the_penalty_rises_smoothly():
    shares = [warmed_up(step / 100, 0.3) for step in range(101)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert max(after - before for before, after in pairwise(shares)) < 0.06
    assert set(shares[30:]) == {1.0}
    assert warmed_up(0, 0) == 1


def test_the_penaltys_gradients_are_the_same_under_activation_checkpointing(model, batch):
    config = SparsityPenaltyConfig(weight=5.0)
    without = penalised_gradients(model, batch, SparsityPenaltyConfig(weight=1e-9))
    expected = penalised_gradients(model, batch, config)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = penalised_gradients(model, batch, config)
    changed = [name for name in expected if not torch.allclose(expected[name], without[name])]
    assert any("mlp" in name for name in changed)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_penalty_that_sees_nothing_is_an_error(model, batch):
    levers = Levers(recipe(sparsity_penalty=SparsityPenaltyConfig(weight=1.0)), model, None)
    levers.start_step(0)
    with pytest.raises(AssertionError):
        levers.losses(model(**batch), batch, 33)


def test_a_schedule_starts_as_the_original_and_ends_as_the_converted_model(model, batch):
    converted = model(**batch).logits
    original = as_turbosparse(model, "swiglu").train()(**batch).logits
    schedule = ActivationScheduleConfig(share_of_steps=0.5)
    levers = Levers(recipe(activation_schedule=schedule), model, None)
    levers.start_step(0)
    torch.testing.assert_close(model(**batch).logits, original)
    levers.start_step(0.4)
    assert not torch.allclose(model(**batch).logits, original, atol=1e-3)
    levers.start_step(0.5)
    assert torch.equal(model(**batch).logits, converted)
    levers.start_step(0.1)
    levers.start_step(0.9)
    assert all(ffn.activation is drelu for ffn in model.modules() if hasattr(ffn, "activation"))


def test_sequences_are_cut_in_order_and_whole_at_the_end(model, batch):
    levers = Levers(
        recipe(sequence_warmup=SequenceWarmupConfig(length_tokens=4, share_of_steps=0.5)), model, None
    )
    levers.start_step(0.4)
    pieces = levers.cut(batch)["input_ids"]
    assert torch.equal(pieces[4], batch["input_ids"][1, 4:8])
    assert torch.equal(pieces.reshape(3, 12), batch["input_ids"])
    levers.start_step(0.5)
    assert torch.equal(levers.cut(batch)["input_ids"], batch["input_ids"])


def test_conversations_and_uneven_pieces_are_never_cut(batch):
    with pytest.raises(AssertionError, match="two sequences"):
        cut(batch, 8)
    with pytest.raises(AssertionError, match="its question"):
        cut(batch | {"labels": batch["input_ids"]}, 4)


def test_a_blend_lets_the_negative_sides_fade():
    blend = BlendedActivation(drelu)
    blend.share.fill_(0.75)
    gate, up = torch.tensor([2.0, 2.0, -2.0]), torch.tensor([3.0, -3.0, 3.0])
    expected = 0.25 * silu(gate) * up + 0.75 * torch.tensor([6.0, 0.0, 0.0])
    torch.testing.assert_close(blend(gate, up), expected)
    assert blend(gate.bfloat16(), up.bfloat16()).dtype == torch.bfloat16
