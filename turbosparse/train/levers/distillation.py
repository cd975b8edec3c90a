"""Learning from the original model's predictions."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from turbosparse.config.levers import DistillationConfig
from turbosparse.data.chat import IGNORED_LABEL
from turbosparse.model.convert import add_vocabulary
from turbosparse.model.folder import load_model


def load_teacher(folder: str | Path, vocab_size: int) -> PreTrainedModel:
    """Returns the folder's model in eval mode, frozen, its vocabulary widened to `vocab_size` if smaller.

    Raises:
        ModelError: Not a folder of a known architecture.
    """
    teacher = load_model(folder)
    if teacher.config.vocab_size < vocab_size:
        add_vocabulary(teacher, vocab_size)
    return teacher.requires_grad_(False)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Returns temperature² · KL(teacher || model), summed over the supervised tokens: a scalar, fp32.

    Args:
        logits: [sequences, tokens, vocabulary], the model's.
        teacher_logits: The same shape.
        labels: [sequences, tokens], int64; the token that a position predicts is the next one's, and
            counts unless it is IGNORED_LABEL.
        temperature: Divides both logits.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network (arXiv 1503.02531), Section 2.
    """
    counts = labels[:, 1:] != IGNORED_LABEL
    student, teacher = (
        log_softmax(each[:, :-1][counts].float() / temperature, dim=-1) for each in (logits, teacher_logits)
    )
    return temperature**2 * kl_div(student, teacher, log_target=True, reduction="sum")


def hidden_loss(states: Sequence[Tensor], original: Sequence[Tensor]) -> Tensor:
    """Returns the mean over layers of |states - original|² / |original|²: a scalar, fp32.

    Args:
        states: The model's residual stream after each layer, [sequences, tokens, hidden].
        original: The teacher's.
    """
    distances = [
        mse_loss(ours.float(), theirs.float()) / theirs.float().square().mean()
        for ours, theirs in zip(states, original, strict=True)
    ]
    return torch.stack(distances).mean()


def hidden_weight(config: DistillationConfig, progress_ratio: float) -> float:
    """Returns the factor of `hidden_loss` at a point of the training, in [0, 1)."""
    if config.hidden_share_of_steps is None:
        return config.hidden_weight
    share = progress_ratio / config.hidden_share_of_steps
    return config.hidden_weight * 0.5 * (1 + math.cos(math.pi * share)) if share < 1 else 0.0


@torch.no_grad()
def run_teacher(
    teacher: PreTrainedModel, batch: dict[str, Tensor], with_hidden_states: bool
) -> CausalLMOutputWithPast:
    """Returns the teacher's logits [sequences, tokens, vocabulary] for a batch, and its hidden states."""
    output: CausalLMOutputWithPast = teacher(
        input_ids=batch["input_ids"],
        position_ids=batch.get("position_ids"),
        use_cache=False,
        output_hidden_states=with_hidden_states,
    )
    return output
