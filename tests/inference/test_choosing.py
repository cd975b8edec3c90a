"""Only allowed tokens are drawn, as often as their chances say, and the same for the same seed."""

import pytest
import torch

from turbosparse.errors import ConfigError
from turbosparse.inference.choosing import Sampler, Sampling, allowed_probabilities

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None]


def test_no_temperature_is_greedy():
    assert Sampler(Sampling()).choose(torch.tensor([[0.1, 3.0, 2.9], [5.0, 1.0, 2.0]])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=1.0, top_k=2), [5 / 8, 3 / 8, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.9), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Sampling(temperature=1.0, top_p=0.01), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), [100 / 146, 36 / 146, 9 / 146, 1 / 146]),
    ],
)
def test_chances_are_the_definitions(sampling, expected):
    found = allowed_probabilities(LOGITS, sampling)[0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-6)


def test_draws_follow_the_chances_and_the_seed():
    many = LOGITS.expand(4_000, -1)
    first = Sampler(Sampling(temperature=1.0, seed=3)).choose(many)
    shares = first.bincount(minlength=4) / len(many)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), rtol=0, atol=0.03)
    assert torch.equal(first, Sampler(Sampling(temperature=1.0, seed=3)).choose(many))
    assert not torch.equal(first, Sampler(Sampling(temperature=1.0, seed=4)).choose(many))


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)
