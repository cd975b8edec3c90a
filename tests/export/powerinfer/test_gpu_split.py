"""The most active neurons that fit go to the GPU, each layer's to its own layer."""

import pytest
import torch

from turbosparse.errors import ModelError
from turbosparse.export.powerinfer import PowerInferOptions, export_powerinfer
from turbosparse.export.powerinfer.activations import count_activations
from turbosparse.export.powerinfer.gpu_split import (
    BYTES_PER_GIB,
    Budget,
    bytes_per_neuron,
    hottest_neurons,
    plan_budget,
    write_gpu_index,
)
from turbosparse.export.powerinfer.model import SPARSE_FILE
from turbosparse.export.powerinfer.tensors import encoded_tensors
from turbosparse.model.folder import load_model, open_folder

INDEX = f"{SPARSE_FILE}.generated.gpuidx"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("some text to learn a few merges from, and more of it\n" * 20)
    return path


def test_the_most_active_groups_over_all_layers_are_taken():
    """Layer 1's second group is more active than layer 0's first; four groups do not all fit."""
    quiet, busy = torch.arange(512), torch.arange(512) + 1_000
    first, second = hottest_neurons([quiet, busy], num_neurons=800)
    assert first.tolist() == list(range(256, 512))
    assert second.tolist() == list(range(512))
    none, half = hottest_neurons([quiet, busy], num_neurons=300)
    assert none.tolist() == []
    assert half.tolist() == list(range(256, 512))


def test_neurons_are_chosen_by_activations_and_listed_ascending():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randperm(1_024, generator=generator)
    (chosen,) = hottest_neurons([counts], num_neurons=512)
    assert set(counts[chosen].tolist()) == set(range(512, 1_024))
    assert chosen.tolist() == sorted(chosen.tolist())


def test_twelve_layers_keep_their_order_in_the_index(read_gguf, tmp_path):
    """Sorted as text, layer 10 would come before layer 2."""
    neurons = [torch.tensor([layer, layer + 20]) for layer in range(12)]
    write_gpu_index(tmp_path / "index", neurons, 64, neuron_bytes=100)
    found = read_gguf(tmp_path / "index")
    assert (found.magic, found.version, found.end) == (b"PWRI", 3, found.num_bytes)
    assert found.keys == {
        "general.architecture": "generic.gpu_index",
        "generic.gpu_index.block_count": 12,
        "split.vram_capacity": 2_400,
    }
    assert found.kinds["split.vram_capacity"] == 10
    expected = [f"blk.{layer}.{part}" for layer in range(12) for part in ("gpu_idx", "gpu_bucket")]
    assert list(found.tensors) == expected
    for layer in range(12):
        flags, bucket = (found.tensors[f"blk.{layer}.{part}"] for part in ("gpu_idx", "gpu_bucket"))
        assert flags.encoding == bucket.encoding == "I32"
        assert bucket.values.tolist() == [layer, layer + 20]
        assert flags.values.nonzero()[0].tolist() == bucket.values.tolist()
        assert flags.values.shape == (64,)


def test_the_budget_is_what_the_engine_leaves_for_neurons(make_folder):
    config, stored = open_folder(make_folder(rank=32))
    tensors = encoded_tensors(config, stored, "f16")
    attention = 2 * (64 * 64 + 64 * 32) * 2 + 64 * 4
    predictor, norm, output = 2 * (32 * 64 + 96 * 32), 64 * 4, 2 * 320 * 64
    budget = plan_budget(tensors, vram_gib=1.0, num_layers=2, context_tokens=50)
    assert budget.resident_bytes == 2 * (attention + predictor + norm) + output + norm
    assert budget.cache_bytes == 2 * 2 * 50 * 32 * 2
    assert budget.ffn_bytes == BYTES_PER_GIB - budget.resident_bytes - budget.cache_bytes
    assert bytes_per_neuron(tensors) == 3 * 64 * 2
    assert bytes_per_neuron(encoded_tensors(config, stored, "q4_0")) == 3 * 64 // 32 * 18


def test_a_budget_without_room_for_neurons_is_refused():
    with pytest.raises(ModelError, match=r"--vram-gib: 0\.5.*more than 0\.75 GiB"):
        Budget(BYTES_PER_GIB // 2, BYTES_PER_GIB // 2, BYTES_PER_GIB // 4).ffn_bytes  # noqa: B018


def test_activations_are_counted_by_layer_and_neuron(make_folder, text):
    source = make_folder()
    counts = count_activations(source, text, num_tokens=40)
    model = load_model(source)
    seen = []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0][0] > 0))
    from turbosparse.data.tokenizer import load_tokenizer  # noqa: PLC0415

    ids = load_tokenizer(source)(text.read_text())["input_ids"][:40]
    model(input_ids=torch.tensor([ids]))
    assert [layer.tolist() for layer in counts] == [active.sum(0).tolist() for active in seen]
    assert any(layer.sum() for layer in counts)


def test_the_folder_holds_counts_and_an_index_that_belong_together(make_folder, text, read_gguf, tmp_path):
    source = make_folder(intermediate_size=512)
    config, stored = open_folder(source)
    tensors = encoded_tensors(config, stored, "f16")
    resident = plan_budget(tensors, 1.0, 2, 64)
    room = 512 * bytes_per_neuron(tensors)
    vram_gib = (resident.resident_bytes + resident.cache_bytes + room) / BYTES_PER_GIB
    options = PowerInferOptions(statistics=text, num_statistics_tokens=200, vram_gib=vram_gib)
    found = export_powerinfer(source, tmp_path / "out", options)
    index = read_gguf(tmp_path / "out" / INDEX)
    held = total = 0
    for layer in range(2):
        counts = torch.load(tmp_path / "out" / "activation" / f"activation_{layer}.pt", weights_only=True)
        assert counts.shape == (512,)
        bucket = index.tensors[f"blk.{layer}.gpu_bucket"].values.copy()
        held, total = held + int(counts[bucket].sum()), total + int(counts.sum())
    assert index.keys["split.vram_capacity"] == room == found["gpu_split"]["ffn_bytes"]
    assert found["gpu_split"]["neuron_ratio"] == 0.5
    assert found["gpu_split"]["activation_ratio"] == held / total > 0.5
