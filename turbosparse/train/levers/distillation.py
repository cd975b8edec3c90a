"""Learning from the original model's predictions."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

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


@torch.no_grad()
def teacher_logits(teacher: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Returns the teacher's logits [sequences, tokens, vocabulary] for a batch."""
    output = teacher(input_ids=batch["input_ids"], position_ids=batch.get("position_ids"), use_cache=False)
    logits: Tensor = output.logits
    return logits
