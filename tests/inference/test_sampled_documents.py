"""Documents sampled from a model follow its distribution, end where it says, and come back by seed."""

import pytest
import torch

from turbosparse.config.levers import SamplingConfig
from turbosparse.errors import ModelError
from turbosparse.inference.sampled_documents import sample_documents
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM

BOS, EOS, VOCABULARY = 1, 2, 12


@pytest.fixture(scope="module")
def model() -> TurboSparseMistralForCausalLM:
    torch.manual_seed(3)
    config = TurboSparseMistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=24,
        bos_token_id=BOS,
        eos_token_id=EOS,
        activation="swiglu",
        initializer_range=0.8,
    )
    return TurboSparseMistralForCausalLM(config).eval()


def settings(**changes) -> SamplingConfig:
    return SamplingConfig(**{"num_tokens": 500, "batch_size_documents": 16, **changes})


def test_documents_come_back_by_seed(model):
    first = list(sample_documents(model, settings()))
    assert first == list(sample_documents(model, settings()))
    assert first != list(sample_documents(model, settings(seed=18)))


def test_there_are_as_many_tokens_as_wanted_and_no_batch_more(model):
    lengths = [len(document) for document in sample_documents(model, settings(num_tokens=2_000))]
    assert sum(lengths) >= 2_000
    assert sum(lengths) < 2_000 + 16 * 23


def test_documents_hold_neither_bos_nor_eos_and_fit_the_context(model):
    documents = list(sample_documents(model, settings(num_tokens=2_000)))
    assert not {BOS, EOS} & {token for document in documents for token in document}
    assert max(map(len, documents)) == 23
    shorter = list(sample_documents(model, settings(max_document_tokens=8)))
    assert max(map(len, shorter)) == 7


@torch.no_grad()
def expected_shares(model, prefix: list[int], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[BOS, *prefix]])).logits[0, -1]
    shares = (logits / temperature).softmax(dim=-1)
    if not prefix:
        # A document that ends at once is none.
        shares[[BOS, EOS]] = 0
    return shares / shares.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_follow_the_models_distribution_whatever_ended_beside_them(model, temperature):
    config = settings(num_tokens=30_000, batch_size_documents=512, temperature=temperature)
    documents = list(sample_documents(model, config))
    first = torch.bincount(torch.tensor([document[0] for document in documents]), minlength=VOCABULARY)
    torch.testing.assert_close(
        first / first.sum(), expected_shares(model, [], temperature), atol=0.03, rtol=0
    )
    # Deep in the documents the batch was packed several times: each must go on with its own cache.
    prefix = max((tuple(d[:2]) for d in documents), key=[tuple(d[:2]) for d in documents].count)
    following = [d[2] if len(d) > 2 else EOS for d in documents if tuple(d[:2]) == prefix]
    counts = torch.bincount(torch.tensor(following), minlength=VOCABULARY).float()
    expected = expected_shares(model, list(prefix), temperature)
    counts[BOS], expected[EOS], expected[BOS] = 0, expected[EOS] + expected[BOS], 0
    torch.testing.assert_close(counts / counts.sum(), expected, atol=0.08, rtol=0)


@torch.no_grad()
def test_cold_sampling_is_greedy_decoding_to_the_documents_end(model):
    documents = list(sample_documents(model, settings(temperature=1e-4, num_tokens=50)))
    ids = [BOS]
    while len(ids) < 24:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        if (token := int(logits.argmax())) in (BOS, EOS):
            break
        ids.append(token)
    assert all(document == ids[1:] for document in documents)


def test_a_longest_document_beyond_the_context_is_refused(model):
    with pytest.raises(ModelError, match="max_document_tokens"):
        next(sample_documents(model, settings(max_document_tokens=25)))
