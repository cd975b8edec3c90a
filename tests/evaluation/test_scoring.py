"""Scores in prefix trees are those of every sequence by itself."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from turbosparse.evaluation.scoring import score
from turbosparse.evaluation.trees import ScoredSequence
from turbosparse.model.configuration import TurboSparseMixtralConfig
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def windowed_mistral():
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))


def mixtral():
    config = TurboSparseMixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, activation="drelu")
    return TurboSparseMixtralForCausalLM(config)


def requests():
    """Questions of several lengths after the same examples, each with choices of several lengths."""
    torch.manual_seed(1)
    examples = torch.randint(3, 97, (25,)).tolist()
    found = []
    for length in (3, 9, 14):
        context = examples + torch.randint(3, 97, (length,)).tolist()
        found += [(context, choice) for choice in ([5], [6], [7, 8, 9], [7, 8, 10, 11, 12])]
    return [*found, ([1], torch.randint(3, 97, (40,)).tolist())]


@torch.no_grad()
def alone(model, context, continuation):
    """The reference: one sequence, one forward pass."""
    logits = model(torch.tensor([context + continuation[:-1]])).logits[0, -len(continuation) :]
    targets = torch.tensor(continuation)
    log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return log_probs, bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize("make", [llama, windowed_mistral, mixtral])
@pytest.mark.parametrize("max_batch_tokens", [None, 1])
def test_scores_are_those_of_each_sequence_by_itself(make, max_batch_tokens):
    torch.manual_seed(0)
    model = make().eval()
    pairs = requests()
    # The likeliest token as continuation: one that is greedy must be among them.
    context = pairs[0][0]
    with torch.no_grad():
        likeliest = int(model(torch.tensor([context])).logits[0, -1].argmax())
    pairs.append((context, [likeliest]))
    found = score(model, [ScoredSequence.of(*pair, 128) for pair in pairs], max_batch_tokens)
    assert found[-1].is_greedy
    for one, pair in zip(found, pairs, strict=True):
        log_probs, is_greedy = alone(model, *pair)
        torch.testing.assert_close(one.log_probs, log_probs, rtol=0, atol=2e-5)
        assert one.is_greedy == is_greedy


def test_progress_counts_every_sequence_once():
    torch.manual_seed(0)
    heard = []
    sequences = [ScoredSequence.of(*pair, 128) for pair in requests()]
    found = score(llama().eval(), sequences, 64, heard.append)
    assert sum(heard) == len(sequences) == len(found)
    assert len(heard) > 1
    assert all(math.isfinite(one.log_likelihood) for one in found)
