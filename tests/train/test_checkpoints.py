"""Checkpoints: visible once whole, verified as they are read, refused where they do not belong."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from turbosparse.artifacts.place import Place
from turbosparse.errors import ArtifactError, ConfigError, ModelError
from turbosparse.train.checkpoints import CheckpointStore, assemble_model, writer

FILES = {"config.json": b'{"hidden_size": 5}'}


def tensors(scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed": torch.randn(30, 5, generator=generator) * scale,
        "model.experts": torch.randn(3, 7, 5, generator=generator).bfloat16() * scale,
        "model.norm": torch.randn(5, generator=generator, dtype=torch.float64) * scale,
        "optimizer.step": torch.tensor(7.0) * scale,
        "optimizer.empty": torch.empty(0, 5),
        "random.cpu": torch.randint(0, 255, (16,), generator=generator, dtype=torch.uint8),
        "seen": torch.tensor([True, False]),
    }


def zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}


def loaded(store: CheckpointStore) -> dict[str, torch.Tensor]:
    checkpoint, into = store.latest(), zeros()
    assert checkpoint is not None
    store.load(checkpoint, into)
    return into


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path), "abc", patience_seconds=0)


def rank_file(folder: Path, step: int) -> Path:
    return next((folder / f"step-{step:08d}").rglob("*.safetensors"))


def test_what_was_saved_comes_back_bit_for_bit(store):
    record = {"learning_rate": 0.1 + 0.2, "best": float("inf"), "samples": [1, 2**60], "note": None}
    store.save(3, tensors(), record, FILES)
    checkpoint = store.latest()
    assert (checkpoint.step, checkpoint.record) == (3, record)
    assert checkpoint.file("config.json") == FILES["config.json"]
    assert equal(loaded(store), tensors())


def test_a_ranks_file_is_read_by_safetensors(store, tmp_path):
    store.save(1, tensors(), {}, {})
    stored = load_file(rank_file(tmp_path, 1))
    assert equal(stored, {name: tensor for name, tensor in tensors().items() if tensor.numel()})


def test_large_tensors_are_chunks_of_bounded_size_each_with_its_digest(store, monkeypatch):
    monkeypatch.setattr(writer, "CHUNK_BYTES", 40)
    store.save(1, tensors(), {}, {})
    stored = store.latest().manifest.tensors
    chunks = [chunk for tensor in stored.values() for chunk in tensor.chunks]
    assert max(chunk.num_bytes for chunk in chunks) == 40
    assert len(stored["model.embed"].chunks) == 15
    assert len(stored["model.experts"].chunks) == 6
    assert equal(loaded(store), tensors())


def _save_and_die(uri: str, dying: str) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    store = CheckpointStore(uri, "abc")
    setattr(Place, dying, die)
    store.save(2, tensors(2.0), {}, FILES)


@pytest.mark.parametrize("dying", ["write_bytes", "create"])
def test_a_killed_save_is_never_visible_and_the_next_save_deletes_it(store, tmp_path, dying):
    store.save(1, tensors(), {}, FILES)
    process = multiprocessing.get_context("fork").Process(target=_save_and_die, args=(str(tmp_path), dying))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert rank_file(tmp_path, 2).exists(), "it was killed too early to leave anything"
    resumed = CheckpointStore(str(tmp_path), "abc")
    assert resumed.latest().step == 1
    assert equal(loaded(resumed), tensors())
    assert (tmp_path / "step-00000002").exists(), "whoever only looks deletes nothing"
    resumed.save(3, tensors(), {}, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_the_last_ones_and_every_so_manieth_are_kept(tmp_path):
    store = CheckpointStore(str(tmp_path), "abc", keep_last=2, keep_every_steps=4)
    for step in range(1, 10):
        store.save(step, tensors(), {}, {})
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [4, 8, 9]


def test_a_checkpoint_that_is_half_deleted_is_none(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path), "abc", keep_last=1, patience_seconds=0)
    store.save(1, tensors(), {}, {})

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "the disk does not answer")

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(ArtifactError, match="does not answer"):
        store.save(2, tensors(), {}, {})
    assert rank_file(tmp_path, 1).exists()
    shutil.move(tmp_path / "step-00000002", tmp_path / "elsewhere")
    assert store.latest() is None


def test_a_step_that_is_there_stays_as_it_is(store):
    """A run told to stop right after it resumed must not put its only checkpoint at risk."""
    store.save(1, tensors(), {}, {})
    store.save(1, tensors(2.0), {}, {})
    assert equal(loaded(store), tensors())


@pytest.mark.parametrize("damage", ["cut", "delete"])
def test_where_a_file_is_cut_or_missing_the_checkpoint_before_is_the_latest(store, tmp_path, damage):
    store.save(1, tensors(), {}, {})
    store.save(2, tensors(2.0), {}, {})
    path = rank_file(tmp_path, 2)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert store.latest().step == 1
    store.save(2, tensors(3.0), {}, {})
    assert equal(loaded(store), tensors(3.0)), "the damaged one was replaced"


def test_a_flipped_byte_is_named_when_it_is_read(store, tmp_path):
    store.save(1, tensors(), {}, FILES)
    path = rank_file(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rank-00000\.safetensors.*sha256.*delete .*step-00000001"):
        loaded(store)
    (path.parent / "config.json").write_text('{"hidden_size": 6}')
    with pytest.raises(ArtifactError, match=r"config\.json"):
        store.latest().file("config.json")


def test_checkpoints_of_another_identity_are_refused(store, tmp_path):
    store.save(1, tensors(), {}, {})
    with pytest.raises(ConfigError, match=r"identity: 'abc'.*xyz.*Remedy"):
        CheckpointStore(str(tmp_path), "xyz").latest()


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("model.norm", torch.zeros(6, dtype=torch.float64), r"model\.norm.*\(5,\).*\(6,\)"),
        ("model.norm", torch.zeros(5), r"model\.norm.*F64.*F32"),
        ("model.layers.9", torch.zeros(2), r"no model\.layers\.9"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_filled(store, name, wanted, message):
    store.save(1, tensors(), {}, {})
    into = zeros() | {name: wanted}
    with pytest.raises(ModelError, match=message):
        store.load(store.latest(), into)
    assert not any(tensor.any() for tensor in into.values())


def test_part_of_a_checkpoint_can_be_loaded(store):
    store.save(1, tensors(), {}, {})
    into = {"model.norm": torch.zeros(5, dtype=torch.float64)}
    store.load(store.latest(), into)
    assert torch.equal(into["model.norm"], tensors()["model.norm"])


def test_a_parameter_is_filled_in_place(store):
    store.save(1, tensors(), {}, {})
    parameter = torch.nn.Parameter(torch.zeros(30, 5))
    store.load(store.latest(), {"model.embed": parameter})
    assert torch.equal(parameter.detach(), tensors()["model.embed"])


def _fill_disk(monkeypatch, num_failures: int) -> list[int]:
    """Makes every fsync fail that often: what a full disk does on file systems that allocate late."""
    calls: list[int] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) <= num_failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    return calls


def test_a_full_disk_is_waited_out(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path), "abc", patience_seconds=30)
    calls = _fill_disk(monkeypatch, num_failures=2)
    store.save(1, tensors(), {}, FILES)
    assert len(calls) > 2
    assert equal(loaded(store), tensors())


def test_a_disk_that_stays_full_is_explained_and_the_checkpoint_before_stays(store, tmp_path, monkeypatch):
    store.save(1, tensors(), {}, FILES)
    with monkeypatch.context() as full:
        _fill_disk(full, num_failures=10**6)
        with pytest.raises(ArtifactError, match=r"No space left.*run again"):
            store.save(2, tensors(), {}, FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert equal(loaded(store), tensors())


def test_an_unreadable_manifest_is_named(store, tmp_path):
    store.save(1, tensors(), {}, {})
    path = tmp_path / "step-00000001" / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["tensors"]["model.embed"]["chunks"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"checkpoint\.json.*as many elements as the tensor has"):
        store.latest()


def test_a_manifest_that_leads_elsewhere_is_refused(store, tmp_path):
    store.save(1, tensors(), {}, {})
    path = tmp_path / "step-00000001" / "checkpoint.json"
    path.write_text(path.read_text().replace("rank-00000.safetensors", "../../secret"))
    with pytest.raises(ArtifactError, match="below the artifact's own folder"):
        store.latest()


def test_a_model_is_assembled_as_a_hugging_face_folder(store, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "CHUNK_BYTES", 40)
    store.save(1, tensors(), {}, FILES)
    target = tmp_path / "model"
    assemble_model(store.latest(), "model.", target, ("config.json",), shard_bytes=400)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 600 + 210 + 40
    found = {name: load_file(target / file)[name] for name, file in index["weight_map"].items()}
    wanted = {name.removeprefix("model."): t for name, t in tensors().items() if name.startswith("model.")}
    assert equal(found, wanted)
    assert len(set(index["weight_map"].values())) == 2
    assert (target / "config.json").read_bytes() == FILES["config.json"]


def test_a_flipped_byte_stops_an_assembly(store, tmp_path):
    store.save(1, tensors(), {}, FILES)
    path = rank_file(tmp_path, 1)
    start = store.latest().manifest.tensors["model.experts"].chunks[0].start_byte
    content = bytearray(path.read_bytes())
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rank-00000\.safetensors"):
        assemble_model(store.latest(), "model.", tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"tensors named ema"):
        assemble_model(store.latest(), "ema.", tmp_path / "other")
