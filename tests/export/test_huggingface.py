"""Folders for the Hugging Face stack: the same model, wherever it is loaded."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from turbosparse.errors import ArtifactError, DataError
from turbosparse.export.check import check_decoding, time_decoding
from turbosparse.export.huggingface import export_huggingface, reload_exported
from turbosparse.inference.decode import decode
from turbosparse.model.folder import load_model

PROMPT = torch.tensor([1, 17, 42, 5])
ELSEWHERE = """
import json, sys
sys.modules["turbosparse"] = None  # as on a machine without it
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    prompt = torch.tensor([[1, 17, 42, 5]])
    tokens = model.generate(prompt, attention_mask=torch.ones(1, 4), max_new_tokens=12, do_sample=False,
                            eos_token_id=None)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    print(json.dumps([tokens[0, 4:].tolist(), chat]))
"""
PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from turbosparse.export.huggingface import export_huggingface
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
export_huggingface(Path(sys.argv[1]), Path(sys.argv[2]), "# card", sys.argv[3], shard_bytes=500_000_000)
print(peak() - before)
"""


@pytest.fixture(params=["mistral", "mixtral"])
def source(request, make_folder):
    return make_folder(architecture=request.param, rank=32)


def test_the_same_tokens_here_and_where_turbosparse_is_not_installed(make_folder, tmp_path):
    expected, targets = [], []
    for architecture in ("mistral", "mixtral"):
        source = make_folder(architecture, architecture=architecture)
        model, target = load_model(source), tmp_path / f"{architecture}-out"
        export_huggingface(source, target, "# card\n")
        reloaded = reload_exported(target)
        assert type(reloaded) is type(model)
        check_decoding(model, reloaded, PROMPT, 12)
        expected.append(decode(model, PROMPT, 12, "dense").tokens)
        targets.append(str(target))
    export_huggingface(tmp_path / "mistral", tmp_path / "released", "# card\n", "released")
    expected.append(expected[0])
    targets.append(str(tmp_path / "released"))
    environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "", "TRANSFORMERS_VERBOSITY": "error"}
    found = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *targets],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()[-3:]]
    assert [tokens for tokens, _ in lines] == expected
    assert all("<|im_start|>user\nHi<|im_end|>" in chat for _, chat in lines)


@pytest.mark.parametrize("layout", ["native", "released"])
def test_every_weight_survives_in_shards(source, layout, tmp_path):
    export_huggingface(source, tmp_path / "out", "# card\n", layout, shard_bytes=100_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    model, found = load_model(source), load_model(tmp_path / "out")
    assert type(found) is type(model)
    assert found.config.predictor_rank == 32
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_an_export_of_an_export_is_the_same(source, tmp_path):
    export_huggingface(source, tmp_path / "native", "# card\n")
    export_huggingface(tmp_path / "native", tmp_path / "released", "# card\n", "released")
    export_huggingface(tmp_path / "released", tmp_path / "again", "# card\n")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        path.name for path in (tmp_path / "native").iterdir()
    }
    for path in (tmp_path / "native").iterdir():
        if path.suffix in (".safetensors", ".py", ".jinja"):
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("layout", ["native", "released"])
def test_generation_ends_with_the_text_or_the_turn(source, layout, tmp_path):
    export_huggingface(source, tmp_path / "out", "# card\n", layout)
    assert load_model(tmp_path / "out").generation_config.eos_token_id == [2, 301]


def test_a_changed_weight_is_found(source, tmp_path):
    export_huggingface(source, tmp_path / "out", "# card\n")
    reloaded = reload_exported(tmp_path / "out")
    with torch.no_grad():
        reloaded.lm_head.weight.copy_(reloaded.lm_head.weight.roll(1, dims=0))
    with pytest.raises(ArtifactError, match="exported model"):
        check_decoding(load_model(source), reloaded, PROMPT, 12)


def test_nothing_is_overwritten(make_folder, tmp_path):
    source = make_folder()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="empty or new folder"):
        export_huggingface(source, tmp_path / "out", "# card\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("layout", ["native", "released"])
def test_a_full_disk_leaves_nothing(make_folder, layout, tmp_path, monkeypatch):
    """The disk is full when the second file of weights has been written, and is to be flushed."""
    source = make_folder()
    flushed = []

    def fail(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match=r"No space left.*free space"):
        export_huggingface(source, tmp_path / "out", "# card\n", layout, shard_bytes=100_000)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_a_folder_without_a_tokenizer_is_refused(make_folder, tmp_path):
    source = make_folder()
    (source / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="tokenizer"):
        export_huggingface(source, tmp_path / "out", "# card\n")
    assert not (tmp_path / "out").exists()


def test_speed_is_a_ratio_of_two_measured_speeds(make_model):
    speed = time_decoding(make_model(), PROMPT, 4)
    assert speed.dense_tokens_per_second > 0
    assert speed.exact_tokens_per_second > 0
    assert 0.01 < speed.ratio < 100
    assert "threads" in speed.machine


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["native", "released"])
def test_memory_does_not_grow_with_the_model(make_folder, hollow_folder, layout, tmp_path):
    """1.3 GB of weights, a file without content on the disk, in less than 150 MB."""
    source = hollow_folder(make_folder())
    total_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert total_bytes > 1_250_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(source), str(tmp_path / "out"), layout],
        capture_output=True,
        text=True,
        check=True,
    )
    written = list((tmp_path / "out").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in written) > 1_250_000_000
    assert max(path.stat().st_size for path in written) <= 500_100_000
    assert int(done.stdout) < 150_000_000
    for path in written:
        path.unlink()
