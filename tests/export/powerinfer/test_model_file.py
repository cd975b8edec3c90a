"""The model's file, read back by a reader of its own: every key, every tensor."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers.models.mistral.modeling_mistral import apply_rotary_pos_emb

from turbosparse.errors import ArtifactError, ModelError
from turbosparse.export.powerinfer import PowerInferOptions, export_powerinfer
from turbosparse.export.powerinfer.model import DENSE_FILE, SPARSE_FILE, write_model, write_predictors
from turbosparse.export.powerinfer.tensors import rotary_order, round_weights
from turbosparse.model.folder import load_model

RANKS = [32, 64]
PLAIN = {
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "fc1": "mlp.predictor.fc1",
    "fc2": "mlp.predictor.fc2",
}
PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from turbosparse.export.powerinfer.model import write_model
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
write_model(Path(sys.argv[1]), Path(sys.argv[2]), "f16")
print(peak() - before)
"""
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def expected_tensors(model):
    """Returns every tensor that the sparse file must hold, by name."""
    weights = {name.removesuffix(".weight"): value.numpy() for name, value in model.state_dict().items()}
    expected = {
        "token_embd.weight": weights["model.embed_tokens"],
        "output_norm.weight": weights["model.norm"],
        "output.weight": weights["lm_head"],
    }
    for layer in range(2):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for name, module in (PLAIN | NORMS).items():
            expected[f"{theirs}{name}.weight"] = weights[ours + module]
        expected[f"{theirs}ffn_down_t.weight"] = weights[f"{ours}mlp.down_proj"].T
        for name, num_heads in (("q", 4), ("k", 2)):
            projection = torch.tensor(weights[f"{ours}self_attn.{name}_proj"])
            expected[f"{theirs}attn_{name}.weight"] = rotary_order(projection, num_heads).numpy()
    return expected


def test_every_tensor_is_there_once_and_is_the_models(make_folder, read_gguf, tmp_path):
    source = make_folder(rank=RANKS)
    export_powerinfer(source, tmp_path / "out", PowerInferOptions())
    found, expected = read_gguf(tmp_path / "out" / SPARSE_FILE), expected_tensors(load_model(source))
    assert (found.magic, found.version, found.end) == (b"PWRI", 3, found.num_bytes)
    assert found.tensors.keys() == expected.keys()
    for name, tensor in found.tensors.items():
        assert tensor.encoding == ("F32" if expected[name].ndim == 1 else "F16")
        dtype = np.float32 if tensor.encoding == "F32" else np.float16
        assert np.array_equal(tensor.values, expected[name].astype(dtype)), name
    assert found.tensors["blk.1.fc2.weight"].values.shape == (96, 64)


def test_every_key_says_what_the_model_is(make_folder, read_gguf, tmp_path):
    source = make_folder(rank=RANKS, predictor_threshold=-0.5)
    export_powerinfer(source, tmp_path / "out", PowerInferOptions())
    keys = read_gguf(tmp_path / "out" / SPARSE_FILE).keys
    config = load_model(source).config
    tokenizer_keys = {name: keys.pop(name) for name in list(keys) if name.startswith("tokenizer.")}
    assert len(tokenizer_keys["tokenizer.ggml.tokens"]) == 320
    assert keys == {
        "general.architecture": "bamboo",
        "general.name": "TurboSparse",
        "general.file_type": 1,
        "bamboo.context_length": 64,
        "bamboo.embedding_length": 64,
        "bamboo.block_count": 2,
        "bamboo.feed_forward_length": 96,
        "bamboo.rope.dimension_count": 16,
        "bamboo.rope.freq_base": 10_000.0,
        "bamboo.attention.head_count": 4,
        "bamboo.attention.head_count_kv": 2,
        "bamboo.attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps),
        "powerinfer.sparse_threshold": -0.5,
    }


def test_q4_0_keeps_every_weight_within_a_step(make_folder, read_gguf, tmp_path):
    source = make_folder(rank=RANKS)
    export_powerinfer(source, tmp_path / "out", PowerInferOptions("q4_0"))
    found, expected = read_gguf(tmp_path / "out" / SPARSE_FILE), expected_tensors(load_model(source))
    assert found.keys["general.file_type"] == 2
    for name, tensor in found.tensors.items():
        wanted = expected[name]
        if wanted.ndim == 1:
            assert np.array_equal(tensor.values, wanted)
            continue
        assert tensor.encoding == ("Q8_0" if name == "output.weight" else "Q4_0")
        blocks, read = wanted.reshape(-1, 32), tensor.values.reshape(-1, 32)
        step = np.abs(blocks).max(1, keepdims=True) / (127 if tensor.encoding == "Q8_0" else 8)
        assert (np.abs(read - blocks) <= 1.01 * step).all(), name


@pytest.mark.parametrize("quantization", ["f16", "q4_0"])
def test_rounded_weights_are_those_in_the_file(make_folder, read_gguf, tmp_path, quantization):
    source = make_folder(rank=RANKS)
    write_model(source, tmp_path, quantization)
    model = load_model(source)
    round_weights(model, quantization)
    found = read_gguf(tmp_path / SPARSE_FILE).tensors
    for name, weight in expected_tensors(model).items():
        assert np.array_equal(found[name].values, weight), name


def test_engine_rotation_of_the_reordered_rows_is_transformers_rotation():
    """The engine turns rows 2i and 2i + 1 of a head together: scores must not change for it."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(32, generator=generator), torch.randn(32, generator=generator)
    angle = torch.arange(8) * 0.3
    cos, sin = angle.cos().repeat(2)[None, None], angle.sin().repeat(2)[None, None]
    rotated = apply_rotary_pos_emb(q.view(1, 2, 1, 16), k.view(1, 2, 1, 16), cos, sin)
    expected = (rotated[0] * k.view(1, 2, 1, 16)).sum(-1).flatten()
    pairs = rotary_order(q[:, None], 2).view(2, 8, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = torch.stack(
        [real * angle.cos() - imaginary * angle.sin(), real * angle.sin() + imaginary * angle.cos()], dim=-1
    )
    found = (turned * rotary_order(k[:, None], 2).view(2, 8, 2)).sum((1, 2))
    assert torch.allclose(found, expected, atol=1e-5)


def test_thresholds_by_layer_become_one_by_scaling(make_folder, read_gguf, tmp_path):
    """A layer of threshold 2 in a file of threshold 1 must have half its logits."""
    source = make_folder(rank=RANKS, predictor_threshold=[1.0, 2.0])
    write_model(source, tmp_path, "f16")
    found, expected = read_gguf(tmp_path / SPARSE_FILE), expected_tensors(load_model(source))
    assert found.keys["powerinfer.sparse_threshold"] == 1.0
    for name, factor in (("blk.0.fc2.weight", 1.0), ("blk.1.fc2.weight", 0.5), ("blk.1.fc1.weight", 1.0)):
        wanted = (factor * expected[name]).astype(np.float16)
        assert np.array_equal(found.tensors[name].values, wanted), name


def test_tied_embeddings_are_written_twice(make_folder, read_gguf, tmp_path):
    source = make_folder()
    model = load_model(source)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(source)
    write_model(source, tmp_path, "f16")
    found = read_gguf(tmp_path / SPARSE_FILE).tensors
    assert np.array_equal(found["output.weight"].values, found["token_embd.weight"].values)


def test_the_dense_file_is_an_ordinary_one_without_predictors(make_folder, read_gguf, tmp_path):
    source = make_folder(rank=None)
    write_model(source, tmp_path, "f16", is_sparse=False)
    found = read_gguf(tmp_path / DENSE_FILE)
    assert found.magic == b"GGUF"
    assert "powerinfer.sparse_threshold" not in found.keys
    assert not [name for name in found.tensors if ".fc" in name or "down_t" in name]
    down = load_model(source).model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(found.tensors["blk.1.ffn_down.weight"].values, down.astype(np.float16))


def test_predictors_by_themselves_are_plain_tensors_beside_a_model_without_them(make_folder, tmp_path):
    source = make_folder(rank=RANKS, predictor_threshold=0.25)
    (tmp_path / "out").mkdir()
    write_predictors(source, tmp_path / "out")
    bare, whole = load_model(tmp_path / "out" / "model"), load_model(source)
    assert bare.config.predictor_rank is None
    for name, weight in bare.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])
    for layer in range(2):
        content = torch.load(tmp_path / "out" / "predictors" / f"model_{layer}.pt", weights_only=True)
        assert content.keys() == {"fc1.weight", "fc2.weight"}
        for name, weight in content.items():
            assert type(weight) is torch.Tensor
            assert torch.equal(weight, whole.state_dict()[f"model.layers.{layer}.mlp.predictor.{name}"])
    assert (tmp_path / "out" / "predictors" / "config.json").read_text() == '{"sparse_threshold": 0.25}\n'


def test_a_weight_that_f16_cannot_hold_is_named_and_nothing_is_left(make_folder, tmp_path):
    source = make_folder()
    model = load_model(source)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 70_000.0
    model.save_pretrained(source)
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight.*65504"):
        export_powerinfer(source, tmp_path / "out", PowerInferOptions())
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_a_full_disk_leaves_nothing(make_folder, tmp_path, monkeypatch):
    source = make_folder()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match=r"No space left.*free space"):
        export_powerinfer(source, tmp_path / "out", PowerInferOptions())
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(make_folder, hollow_folder, tmp_path):
    """1.3 GB of weights in less than 300 MB: eight times the largest tensor in fp32."""
    source = hollow_folder(make_folder())
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(source), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / SPARSE_FILE).stat().st_size > 1_250_000_000
    assert int(done.stdout) < 300_000_000
    (tmp_path / SPARSE_FILE).unlink()
