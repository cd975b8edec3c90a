"""Checkpoints on a real object store: kills in the middle of an upload, and outages."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from s3_server import BUCKET
from s3fs.core import S3File
from safetensors.torch import load_file

from turbosparse.artifacts import place
from turbosparse.errors import ArtifactError
from turbosparse.train.checkpoints import CheckpointStore, assemble_model, writer

FILES = {"config.json": b"{}"}


def tensors(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"model.w": torch.randn(3, 1000, 700, generator=generator), "step": torch.tensor(step)}


def loaded(store: CheckpointStore) -> dict[str, torch.Tensor]:
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
    store.load(store.latest(), into)
    return into


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def steps(swift, uri: str) -> set[str]:
    prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
    listing = swift.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return {entry["Key"].removeprefix(prefix).split("/")[0] for entry in listing.get("Contents", [])}


def uploads(swift) -> list[str]:
    listing = swift.client().list_multipart_uploads(Bucket=BUCKET)
    return [upload["Key"] for upload in listing.get("Uploads", [])]


def test_a_checkpoint_is_saved_loaded_and_assembled(swift, s3, tmp_path, monkeypatch):
    """Eight megabytes in parts of five, and in chunks of one: several requests of each kind."""
    monkeypatch.setattr(place, "PART_BYTES", 5 * 1024**2)
    monkeypatch.setattr(writer, "CHUNK_BYTES", 1024**2)
    store = CheckpointStore(s3, "abc", keep_last=1)
    for step in (1, 2):
        store.save(step, tensors(step), {"seen": step}, FILES)
    assert steps(swift, s3) == {"step-00000002"}
    checkpoint = CheckpointStore(s3, "abc").latest()
    assert (checkpoint.step, checkpoint.record) == (2, {"seen": 2})
    assert len(checkpoint.manifest.tensors["model.w"].chunks) == 9
    assert equal(loaded(store), tensors(2))
    assemble_model(checkpoint, "model.", tmp_path / "model")
    assert torch.equal(load_file(tmp_path / "model" / "model.safetensors")["w"], tensors(2)["model.w"])


def test_a_flipped_byte_on_the_object_store_is_named(swift, s3):
    store = CheckpointStore(s3, "abc")
    store.save(1, tensors(1), {}, FILES)
    manifest = store.latest().manifest
    key = f"{s3.removeprefix(f's3://{BUCKET}/')}/step-00000001/{manifest.attempt}/rank-00000.safetensors"
    content = bytearray(swift.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[manifest.tensors["model.w"].chunks[0].start_byte] ^= 1
    swift.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    with pytest.raises(ArtifactError, match=r"rank-00000\.safetensors.*sha256"):
        loaded(store)


def _save_and_die_in_the_upload(uri: str) -> None:
    place.PART_BYTES = 5 * 1024**2
    upload_chunk = S3File._upload_chunk

    def upload_one_then_die(self: S3File, final: bool = False) -> bool:
        if self.parts:
            os.kill(os.getpid(), signal.SIGKILL)
        return upload_chunk(self, final)

    S3File._upload_chunk = upload_one_then_die
    CheckpointStore(uri, "abc").save(2, tensors(2), {}, FILES)


@pytest.mark.slow
def test_after_a_kill_in_the_middle_of_an_upload_the_checkpoint_before_is_the_latest(swift, s3):
    CheckpointStore(s3, "abc").save(1, tensors(1), {}, FILES)
    process = multiprocessing.get_context("spawn").Process(target=_save_and_die_in_the_upload, args=(s3,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any("step-00000002" in key for key in uploads(swift)), "it was killed outside of an upload"
    resumed = CheckpointStore(s3, "abc")
    assert resumed.latest().step == 1
    assert equal(loaded(resumed), tensors(1))
    resumed.save(2, tensors(2), {}, FILES)
    assert equal(loaded(resumed), tensors(2))
    assert not uploads(swift), "parts of the killed upload are still paid for"


@pytest.mark.slow
def test_an_outage_is_waited_out_while_saving_and_while_loading(swift, s3):
    store = CheckpointStore(s3, "abc")
    store.save(1, tensors(1), {}, FILES)
    for work in (lambda: store.save(2, tensors(2), {}, FILES), lambda: loaded(store)):
        swift.stop()
        with ThreadPoolExecutor(1) as others:
            outcome = others.submit(work)
            time.sleep(2)
            is_waiting = not outcome.done()
            # Here and not on the thread: the server's processes die with the thread that starts them.
            swift.start()
            outcome.result()
        assert is_waiting
    assert equal(loaded(store), tensors(2))


@pytest.mark.slow
def test_an_outage_that_lasts_is_explained_and_the_checkpoint_before_stays(swift, s3):
    store = CheckpointStore(s3, "abc", patience_seconds=1)
    store.save(1, tensors(1), {}, FILES)
    swift.stop()
    try:
        with pytest.raises(ArtifactError, match=r"storage that answers.*127\.0\.0\.1.*run again"):
            store.save(2, tensors(2), {}, FILES)
    finally:
        swift.start()
    assert equal(loaded(CheckpointStore(s3, "abc")), tensors(1))
