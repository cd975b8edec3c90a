"""The fused loss is torch's own, in value and gradient; labels are what they say."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from turbosparse.predictors import loss
from turbosparse.predictors.loss import active_labels, weighted_cross_entropy


def random_case(num_tokens=37, num_neurons=19):
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(num_tokens, num_neurons, generator=generator)
    active = torch.rand(num_tokens, num_neurons, generator=generator) < 0.3
    weight = (torch.rand(num_tokens, generator=generator) < 0.7).float()
    return logits, active, weight


@pytest.mark.parametrize("positive_weight", [1.0, 2.5])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_loss_and_gradient_equal_torchs(positive_weight, is_weighted, monkeypatch):
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", 100)  # several chunks, the last one short
    logits, active, weight = random_case()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total = weighted_cross_entropy(ours, active, positive_weight, weight if is_weighted else None)
    expected = binary_cross_entropy_with_logits(
        theirs,
        active.float(),
        weight=weight[:, None] if is_weighted else None,
        pos_weight=torch.tensor(positive_weight),
        reduction="sum",
    )
    torch.testing.assert_close(total, expected)
    (3 * total).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sums_do_not_suffer_from_half_precision():
    logits, active, _ = random_case(num_tokens=4_000)
    half = logits.bfloat16().requires_grad_()
    total = weighted_cross_entropy(half, active)
    exact = binary_cross_entropy_with_logits(half.detach().double(), active.double(), reduction="sum")
    assert total.dtype == torch.float32
    assert float(total.detach()) == pytest.approx(float(exact), rel=1e-5)
    total.backward()
    assert half.grad.dtype == torch.bfloat16


def test_labels_are_relative_to_the_tokens_own_scale():
    combined = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 10.0, 20.0, 40.0]])
    assert active_labels(combined).tolist() == [[False, True, True, True]] * 2
    # The largest is 4: half of it is 2, which must be exceeded. The root mean square is 2.29.
    assert active_labels(combined, 0.5, "max").tolist() == [[False, False, False, True]] * 2
    assert active_labels(combined, 0.8, "rms").tolist() == [[False, False, True, True]] * 2
