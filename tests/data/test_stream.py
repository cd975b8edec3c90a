"""Delivery: the exact order on one rank and on two, over epochs, and after a resume."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming import MDSWriter

from turbosparse.data.mixture import interleave, spread
from turbosparse.data.stream import MixtureDataset, open_mixture
from turbosparse.errors import DataError

LENGTH = 4
BOS = 1
WANTED = {"wanjuan-cc": 10, "redpajama-wiki": 4, "starcode-java": 0, "github-code": 2}
ON_DISK = {"wanjuan-cc": 6, "redpajama-wiki": 4, "starcode-java": 2, "github-code": 1}
RESUMED_AT = 8
RANK_SCRIPT = """
import json, sys
from pathlib import Path
from turbosparse.data.stream import open_mixture

def epoch(dataset):
    return [row["input_ids"][:2].tolist() for row in dataset]

folder, state, out = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
shards = str(folder / "tokens")
fresh, resumed = open_mixture(folder, shards, 2), open_mixture(folder, shards, 2)
resumed.load_state_dict(state)
out.write_text(json.dumps([epoch(fresh), epoch(fresh), epoch(resumed), epoch(resumed)]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A prepared corpus whose tokens say which source and which of its sequences they are."""
    folder = tmp_path_factory.mktemp("corpus")
    shards = []
    for source, count in ON_DISK.items():
        out = folder / "tokens" / source
        # Small shards, so that a source has several.
        columns = {"tokens": "ndarray:uint16"}
        with MDSWriter(out=str(out), columns=columns, size_limit=100, hashes=["xxh64"]) as writer:
            for number in range(count):
                tokens = np.array([list(WANTED).index(source), number, BOS, 65_535], np.uint16)
                writer.write({"tokens": tokens})
        for shard in json.loads((out / "index.json").read_text())["shards"]:
            shard["raw_data"]["basename"] = f"{source}/{shard['raw_data']['basename']}"
            shards.append(shard)
    mixture = {"sequence_length": LENGTH, "sequences": WANTED, "on_disk": ON_DISK}
    (folder / "mixture.json").write_text(json.dumps(mixture))
    np.save(folder / "order.npy", interleave(list(WANTED.values())).astype(np.uint8))
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return folder


def opened(corpus: Path, device_batch_size: int, **options) -> MixtureDataset:
    return open_mixture(corpus, str(corpus / "tokens"), device_batch_size, **options)


@pytest.fixture(scope="module")
def order() -> list[tuple[int, int]]:
    """Source and sequence number at each position of an epoch."""
    turns = dict.fromkeys(range(len(WANTED)), 0)
    expected = []
    for source in interleave(list(WANTED.values())).tolist():
        on_disk = ON_DISK[list(WANTED)[source]]
        expected.append((source, int(spread(on_disk)[turns[source] % on_disk])))
        turns[source] += 1
    return expected


def drawn(dataset: MixtureDataset, limit: int | None = None) -> list[tuple[int, int]]:
    rows = []
    for row in dataset:
        rows.append(tuple(row["input_ids"][:2].tolist()))
        if len(rows) == limit:
            break
    return rows


@pytest.mark.parametrize("device_batch_size", [1, 4, 16])
def test_one_rank_draws_the_interleaved_order_in_every_epoch(corpus, order, device_batch_size):
    dataset = opened(corpus, device_batch_size)
    assert len(dataset) == 16
    assert [drawn(dataset), drawn(dataset)] == [order, order]


def test_the_order_repeats_small_sources_evenly(order):
    counts = {pair: order.count(pair) for pair in set(order)}
    assert [counts[0, number] for number in range(6)] == [2, 2, 2, 2, 1, 1]
    assert counts[3, 0] == 2


def test_a_sequence_is_a_long_tensor_of_its_tokens(corpus):
    row = opened(corpus, 1)[0]
    assert list(row) == ["input_ids"]
    assert row["input_ids"].dtype == torch.int64
    assert row["input_ids"].tolist() == [0, 0, BOS, 65_535]


def test_positions_start_again_at_each_document(corpus):
    row = opened(corpus, 1, bos_token_id=BOS)[0]
    assert row["position_ids"].tolist() == [0, 1, 0, 1]


def test_shards_of_a_remote_root_come_when_they_are_drawn(corpus, order, tmp_path):
    """A copy of the corpus whose shards lie behind a URI: one sequence fetches one shard."""
    for name in ("mixture.json", "index.json", "order.npy"):
        (tmp_path / name).write_bytes((corpus / name).read_bytes())
    dataset = open_mixture(tmp_path, f"file://{corpus}/tokens", 1)
    assert dataset[0]["input_ids"].tolist() == [0, 0, BOS, 65_535]
    assert len(list((tmp_path / "shards-cache").rglob("*.mds"))) == 1
    assert drawn(dataset) == order


@pytest.mark.parametrize("num_drawn", [1, 6, 15])
def test_a_resumed_rank_continues_where_it_stopped(corpus, order, num_drawn):
    first = opened(corpus, 1)
    assert drawn(first) == order
    assert drawn(first, num_drawn) == order[:num_drawn]
    state = first.state_dict(num_drawn, from_beginning=True)
    resumed = opened(corpus, 1)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert drawn(resumed) == order[num_drawn:]
    assert drawn(resumed) == order


@pytest.fixture(scope="module")
def two_ranks(corpus, tmp_path_factory) -> list[list[list[list[int]]]]:
    """What two ranks draw, [rank][epoch][sample]: two fresh epochs, then two resumed ones."""
    tmp = tmp_path_factory.mktemp("ranks")
    state = json.dumps(opened(corpus, 1).state_dict(0, True) | {"epoch": 0, "sample_in_epoch": RESUMED_AT})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    outs = [tmp / f"{rank}.json" for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_SCRIPT, str(corpus), state, str(out)],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "TMPDIR": str(tmp)},
        )
        for rank, out in enumerate(outs)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    return [json.loads(out.read_text()) for out in outs]


def global_batches(two_ranks, epoch: int) -> list[list[tuple[int, int]]]:
    """What both ranks draw at each step, two sequences each."""
    first, second = (rank[epoch] for rank in two_ranks)
    steps = range(0, len(first), 2)
    return [sorted(map(tuple, first[step : step + 2] + second[step : step + 2])) for step in steps]


@pytest.mark.parametrize("epoch", [0, 1])
def test_two_ranks_together_draw_the_next_run_of_the_same_order(two_ranks, order, epoch):
    assert global_batches(two_ranks, epoch) == [sorted(order[at : at + 4]) for at in range(0, 16, 4)]


def test_two_resumed_ranks_continue_where_one_stopped(two_ranks, order):
    rest = [sorted(order[at : at + 4]) for at in range(RESUMED_AT, 16, 4)]
    assert global_batches(two_ranks, 2) == rest
    assert global_batches(two_ranks, 3) == global_batches(two_ranks, 0)


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    with pytest.raises(DataError, match="prepare it first"):
        opened(tmp_path, 1)
