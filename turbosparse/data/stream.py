"""What training draws: the mixture's sequences in an order that holds its ratios all along."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import Stream, StreamingDataset

from turbosparse.data.mixture import interleave, spread
from turbosparse.data.pack import TOKENS
from turbosparse.data.shards import MIXTURE_NAME, SHARDS_NAME
from turbosparse.errors import DataError


class MixtureDataset(StreamingDataset):
    """One stream per source, drawn in a fixed interleaving instead of at random.

    Every prefix of the order is within one sequence of the mixture's ratios. A source that is
    smaller than its share starts over. One canonical node makes the order the same on any number
    of ranks: the ranks' batches of one step are together the next run of it.
    """

    def __init__(self, shards: Path, sequences: dict[str, int], device_batch_size: int) -> None:
        """Opens `shards/<source>/` of each source that has sequences.

        Args:
            shards: folder with one MDS folder per source.
            sequences: sequences per epoch by source.
            device_batch_size: sequences per batch of one rank.
        """
        wanted = {source: count for source, count in sequences.items() if count}
        self._counts = list(wanted.values())
        super().__init__(
            streams=[Stream(local=str(shards / source), choose=count) for source, count in wanted.items()],
            batch_size=device_batch_size,
            num_canonical_nodes=1,
            shuffle=False,
        )

    def resample_streams(
        self,
        epoch: int,  # noqa: ARG002 - every epoch has the same order
        stream_id: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the interleaved order, the same in every epoch.

        Returns:
            Shuffle units (unused without shuffling), [1], and the sample id at each position,
            [num_sequences]; both int64.
        """
        assert stream_id is None, "batching by stream would undo the interleaving"
        sources = interleave(self._counts)
        sample_ids = np.empty_like(sources)
        for source, count in enumerate(self._counts):
            on_disk = int(self.samples_per_stream[source])
            turns = spread(on_disk)[np.arange(count) % on_disk]
            sample_ids[sources == source] = self.sample_offset_per_stream[source] + turns
        return np.array([len(sample_ids)]), sample_ids

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, torch.Tensor]:
        """Returns one sequence, `input_ids: [sequence_length]`, int64."""
        sample: dict[str, Any] = super().get_item(sample_id, retry)
        return {"input_ids": torch.from_numpy(sample[TOKENS].astype(np.int64))}


def open_mixture(folder: Path, device_batch_size: int) -> MixtureDataset:
    """Opens what `build_shards` wrote to `folder`.

    Every rank opens it, after `torch.distributed` is initialised.

    Args:
        folder: the prepared corpus.
        device_batch_size: sequences per batch of one rank.

    Raises:
        DataError: the folder holds no prepared corpus.
    """
    file = folder / MIXTURE_NAME
    if not file.is_file():
        raise DataError("corpus", str(folder), f"a prepared corpus with {MIXTURE_NAME}", "prepare it first")
    mixture = json.loads(file.read_text(encoding="utf-8"))
    return MixtureDataset(folder / SHARDS_NAME, mixture["sequences"], device_batch_size)
