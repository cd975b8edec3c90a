"""Shorter sequences at first: the same tokens with less attention between them.

Composer's SeqLengthWarmup cuts a batch before it is split into microbatches of so many sequences: shorter
ones would make smaller microbatches, and more of them. Here each microbatch is cut, and holds its tokens.
"""

from torch import Tensor

from turbosparse.config.levers import SequenceWarmupConfig


def length_at(config: SequenceWarmupConfig | None, progress_ratio: float, sequence_length: int) -> int:
    """Returns the tokens of the pieces that sequences are cut into at a point of the training, in [0, 1)."""
    if config is None or progress_ratio >= config.share_of_steps:
        return sequence_length
    return config.length_tokens


def cut(batch: dict[str, Tensor], length_tokens: int) -> dict[str, Tensor]:
    """Returns the batch's tensors [sequences, tokens] as [pieces, length_tokens], in the same order."""
    assert "labels" not in batch, "a conversation's answer would lose its question"
    assert batch["input_ids"].shape[1] % length_tokens == 0, "a piece would hold two sequences' tokens"
    return {name: tensor.reshape(-1, length_tokens) for name, tensor in batch.items()}
