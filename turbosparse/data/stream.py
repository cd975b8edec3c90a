"""What training draws: the mixture's sequences in an order that holds its ratios all along."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from numpy.typing import NDArray
from streaming import Stream, StreamingDataset
from streaming.base.dataset import _ShardState
from streaming.base.format import reader_from_json
from streaming.base.format.base.reader import Reader
from streaming.base.hashing import get_hash

from turbosparse.artifacts.place import Place
from turbosparse.data.layout import INDEX_NAME, SHARD_HASH, TOKENS
from turbosparse.data.mixture import spread
from turbosparse.data.mixture_files import read_mixture, read_order
from turbosparse.data.shard_index import read_shards
from turbosparse.errors import ArtifactError, DataError


class IndexedStream(Stream):
    """Shards of many groups under one index that lies elsewhere than they do."""

    def __init__(self, index: Path, shards: str, cache: Path, num_drawn: int) -> None:
        """Opens shards in place, or at their first use where they are not on this machine.

        Args:
            index: MDS index with paths relative to `shards`.
            shards: a local folder, or any fsspec URI.
            cache: keeps what was downloaded.
            num_drawn: samples per epoch.
        """
        self._index = index
        self._origin = shards if "://" in shards else None
        # To streaming the stream is local: it knows no fsspec, and would ask for S3's keys by other names.
        super().__init__(
            local=str(cache) if self._origin else shards, choose=num_drawn, validate_hash=SHARD_HASH
        )

    def get_shards(self, world: Any, allow_unsafe_types: bool) -> list[Reader]:  # noqa: ARG002 - streaming's form
        """Returns a reader for each shard of the index, in its order."""
        shards = read_shards(self._index)
        self._hashes = {shard["raw_data"]["basename"]: shard["raw_data"]["hashes"] for shard in shards}
        readers = [reader_from_json(self.local, self.split, shard) for shard in shards]
        for reader in readers:
            reader.validate(allow_unsafe_types)
        return readers

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        """Fetches a shard at its first use; it becomes visible only when it is whole and the right one.

        streaming looks at a shard's hash once, after its download: a wrong one that were left there would be
        taken for right by whoever comes next.
        """
        assert to_basename is None, "streaming renames only an index, which is here already"
        target = Path(self.local) / from_basename
        if self._origin is None:
            raise DataError("shard", str(target), "a file", "check the corpus with turbosparse verify")
        # fsspec's cached connections don't survive the loader's fork: each process has its own.
        origin = Place(*fsspec.core.url_to_fs(self._origin, skip_instance_cache=True))
        origin.download([from_basename], Path(self.local), self._verify)
        return str(target)

    def _verify(self, basename: str, shard: Path) -> None:
        found, expected = get_hash(SHARD_HASH, shard.read_bytes()), self._hashes[basename][SHARD_HASH]
        if found != expected:
            remedy = "check the corpus with turbosparse verify"
            raise ArtifactError(f"shard {basename}", f"{SHARD_HASH} {found}", expected, remedy)

    def get_index_size(self) -> int:
        """Returns the index's size in bytes, which streaming adds up for its cache limit."""
        return self._index.stat().st_size


class MixtureDataset(StreamingDataset):
    """The sources drawn in a fixed interleaving instead of at random.

    Every prefix of the order is within one sequence of the mixture's ratios. A source that is
    smaller than its share starts over. One canonical node makes the order the same on any number
    of ranks: the ranks' batches of one step are together the next run of it.
    """

    def __init__(
        self,
        stream: IndexedStream,
        order: NDArray[np.integer[Any]],
        on_disk: list[int],
        device_batch_size: int,
        bos_token_id: int | None = None,
    ) -> None:
        """Opens the stream's shards.

        Args:
            stream: all sources' sequences, one source after the other.
            order: number of the source at each position of an epoch (see `mixture.interleave`).
            on_disk: sequences of the stream by source, in its order.
            device_batch_size: sequences per batch of one rank.
            bos_token_id: what begins a document, where samples are to carry `position_ids` that
                keep attention within documents.
        """
        self._order = order
        self._on_disk = on_disk
        self._bos_token_id = bos_token_id
        super().__init__(streams=[stream], batch_size=device_batch_size, num_canonical_nodes=1, shuffle=False)
        assert self.num_samples == sum(on_disk), "the index is not the mixture's"

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
        sample_ids = np.empty(len(self._order), np.int64)
        offset = 0
        for source, on_disk in enumerate(self._on_disk):
            places = np.flatnonzero(self._order == source)
            if len(places):
                sample_ids[places] = offset + spread(on_disk)[np.arange(len(places)) % on_disk]
            offset += on_disk
        return np.array([len(sample_ids)]), sample_ids

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetches a shard that is not here yet, or waits for who fetches it.

        A fetch that failed is over: streaming would leave the shard "being fetched", which this and every
        other worker of the machine would wait for without end.
        """
        try:
            super().prepare_shard(shard_id, blocking)
        except BaseException:
            self._shard_states[shard_id] = _ShardState.REMOTE
            raise

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, torch.Tensor]:
        """Returns one sequence, `input_ids: [sequence_length]`, int64, and `position_ids` if asked for."""
        sample: dict[str, Any] = super().get_item(sample_id, retry)
        tokens = sample[TOKENS].astype(np.int64)
        if self._bos_token_id is None:
            return {"input_ids": torch.from_numpy(tokens)}
        positions = document_positions(tokens, self._bos_token_id)
        return {"input_ids": torch.from_numpy(tokens), "position_ids": torch.from_numpy(positions)}


def open_mixture(
    folder: Path, shards: str, device_batch_size: int, bos_token_id: int | None = None
) -> MixtureDataset:
    """Opens what `build_corpus` wrote to `folder`.

    Every rank opens it, after `torch.distributed` is initialised.

    Args:
        folder: the prepared corpus.
        shards: where its index's paths begin: `<root>/tokens`.
        device_batch_size: sequences per batch of one rank.
        bos_token_id: see `MixtureDataset`.

    Raises:
        DataError: the folder holds no prepared corpus, or a damaged one.
    """
    on_disk = list(read_mixture(folder).on_disk.values())
    order = read_order(folder, len(on_disk))
    stream = IndexedStream(folder / INDEX_NAME, shards, folder / "shards-cache", len(order))
    return MixtureDataset(stream, order, on_disk, device_batch_size, bos_token_id)


def document_positions(tokens: NDArray[np.int64], bos_token_id: int) -> NDArray[np.int64]:
    """Returns each token's position within its document's part of the sequence.

    With these as `position_ids`, attention stays within documents.

    Args:
        tokens: [sequence_length].
        bos_token_id: begins every document.
    """
    places = np.arange(len(tokens))
    return places - np.maximum.accumulate(np.where(tokens == bos_token_id, places, 0))
