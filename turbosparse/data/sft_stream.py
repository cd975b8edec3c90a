"""Packed instruction sequences, streamed to training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from streaming import StreamingDataset

from turbosparse.data.shard_index import read_shards
from turbosparse.errors import DataError


class InstructionDataset(StreamingDataset):
    """Packed conversations: input_ids, labels and position_ids, each [sequence_length], int64.

    `is_real`, bool, tells tokens from padding.
    """

    def __getitem__(self, at: Any) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(at)
        num_tokens = sample.pop("num_tokens")
        tensors = {name: torch.from_numpy(values.astype("int64")) for name, values in sample.items()}
        return {**tensors, "is_real": torch.arange(len(tensors["input_ids"])) < num_tokens}


def open_instructions(folder: Path, device_batch_size: int) -> InstructionDataset:
    """Opens what `build_instructions` wrote under `folder`, in its order, the same on any number of ranks.

    Args:
        folder: holds shards/.
        device_batch_size: sequences per step of one rank.

    Raises:
        DataError: the folder holds no shards, or such that can't be trusted.
    """
    shards = folder / "shards"
    if not (shards / "index.json").is_file():
        raise DataError("instructions", str(folder), "a folder with shards/index.json", "run finetune again")
    read_shards(shards / "index.json")
    return InstructionDataset(
        local=str(shards), shuffle=False, num_canonical_nodes=1, batch_size=device_batch_size
    )


def conversation_tokens(folder: Path) -> Iterator[torch.Tensor]:
    """Yields the token ids [tokens] of every packed conversation under `folder`, padding left out.

    Raises:
        DataError: the folder holds no shards.
    """
    dataset = open_instructions(folder, device_batch_size=1)
    for number in range(dataset.num_samples):
        sample = dataset[number]
        real = sample["is_real"]
        starts = (sample["position_ids"][real] == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], int(real.sum())]
        for start, end in zip(starts, ends, strict=True):
            yield sample["input_ids"][start:end]
