"""Model and tokenizer folders from outside: read as data, whatever they hold."""

import json
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from turbosparse.analysis.loading import load_for_analysis
from turbosparse.data.reading import read_texts
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.errors import ArtifactError, DataError, ModelError, TurboSparseError
from turbosparse.export.huggingface import copy_tokenizer, export_huggingface, reload_exported
from turbosparse.model.convert import convert_model
from turbosparse.model.folder import load_model
from turbosparse.train.checkpoints import CheckpointStore

CODE = "import pathlib\npathlib.Path({proof!r}).touch()\nclass Evil: pass\n"


class Payload:
    """Unpickled, it leaves a proof."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.fixture
def proof(tmp_path):
    """What must not be there afterwards."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code from outside was run"


@pytest.fixture
def folder(tmp_path):
    """A small SwiGLU model with its tokenizer."""
    target = tmp_path / "model"
    tokenizer = train_tokenizer(["some words to learn from"] * 4, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=300,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_payload_works(proof, tmp_path):
    """Or the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "worked")))
    assert (tmp_path / "worked").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "optimizer.bin", "training_args.bin"])
def test_pickles_beside_the_weights_are_not_read(folder, proof, name):
    (folder / name).write_bytes(pickle.dumps(Payload(proof)))
    load_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"])
def test_weights_that_are_pickles_are_refused(folder, proof, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(proof)))
    for load in (load_model, load_for_analysis):
        with pytest.raises(ModelError):
            load(folder)


def test_pickled_weights_of_other_architectures_are_refused(folder, proof):
    change(folder / "config.json", model_type="qwen2_moe")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(ModelError, match="pickled ones are never loaded"):
        load_for_analysis(folder)


def test_modelling_code_of_a_folder_is_not_run(folder, proof):
    (folder / "evil.py").write_text(CODE.format(proof=str(proof)))
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    change(folder / "config.json", auto_map=auto_map)
    load_model(folder)
    load_for_analysis(folder)
    change(folder / "config.json", model_type="evil")
    with pytest.raises(ModelError):
        load_model(folder)


def test_an_exported_folder_is_checked_without_its_code(folder, proof, tmp_path):
    converted, exported = tmp_path / "converted", tmp_path / "exported"
    convert_model(folder, converted, "drelu")
    copy_tokenizer(folder, converted)
    export_huggingface(converted, exported, "card")
    for code in exported.glob("*.py"):
        code.write_text(CODE.format(proof=str(proof)))
    reload_exported(exported)


def test_tokenizer_code_of_a_folder_is_not_run(folder, proof):
    (folder / "evil.py").write_text(CODE.format(proof=str(proof)))
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
        tokenizer_class="Evil",
    )
    try:
        load_tokenizer(folder)
    except DataError as error:
        assert "tokenizer" in str(error)


def test_a_tokenizer_that_is_a_pickle_is_refused(folder, proof):
    (folder / "tokenizer.json").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(DataError):
        load_tokenizer(folder)


def test_parquet_metadata_is_not_unpickled(tmp_path, proof):
    """Arrow once made extension types from pickles in a file's schema."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(proof)),
    }
    field = pa.field("text", pa.string(), metadata=metadata)
    table = pa.table({"text": ["a document"]}, schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_texts(str(tmp_path / "a.parquet"), "text", 1_000)) == ["a document"]


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path, proof):
    step = tmp_path / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (step / "checkpoint.json").write_bytes(pickle.dumps(Payload(proof)))
    (step / "__0_0.distcp").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(TurboSparseError):
        CheckpointStore(str(tmp_path / "checkpoints"), "identity").latest()


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "chat_template.jinja"])
def test_a_link_to_a_file_of_this_machine_does_not_travel(folder, tmp_path, name):
    secret = tmp_path / "credentials"
    secret.write_text("a secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(ArtifactError, match="a file of that folder itself"):
        copy_tokenizer(folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / name).exists()


def test_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        path.rename(blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(blobs / f"blob-{path.name}")
    copy_tokenizer(snapshot, tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").is_file()
    assert not (tmp_path / "copy" / "tokenizer.json").is_symlink()
