"""The decoding benchmark measures what it says, on models whose active neurons are known."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import linear, relu

from turbosparse.bench.decode import DecodePlan, measure_decoding
from turbosparse.bench.decode_kernels import DENSE_WAYS, KernelCase
from turbosparse.bench.decode_models import ModelBench
from turbosparse.bench.decode_peer import VOCAB_SIZE, why_no_llama_cpp, write_dense_model
from turbosparse.bench.decode_report import decoding_notes, decoding_rows, paper_rows, write_decoding
from turbosparse.bench.decode_rounds import median_ratio, time_by_turns
from turbosparse.bench.decode_shapes import NUM_SETS, Shape, steered_model

SMALL = Shape(
    active_ratio=0.1,
    predictor_rank=32,
    num_measured_layers=2,
    num_layers=8,
    hidden_size=128,
    intermediate_size=512,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=64,
)


@pytest.fixture(params=["mistral", "mixtral"])
def shape(request):
    return SMALL if request.param == "mistral" else replace(SMALL, num_experts=4)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_the_wanted_neurons_are_active_in_every_layer(shape, precision):
    """Steps really read what the byte ratios claim: all gates, the open ones' up, the active ones' down."""
    bench = ModelBench.make(steered_model(shape), shape, precision)
    expected = {"dense": (1, 1, 1), "exact": (1, 0.1**0.5, 0.1), "predicted": (0.1, 0.1, 0.1)}
    for mode, ratios in expected.items():
        bench.bytes_of(mode)
        traffic = bench.decoders[mode].traffic
        for rows, ratio in zip(traffic.rows.tolist(), ratios, strict=True):
            assert rows / traffic.num_neurons == pytest.approx(ratio, abs=0.002)


def test_tokens_activate_different_neurons():
    model = steered_model(SMALL)
    gate = model.model.layers[0].mlp.gate_proj.weight
    opened = (gate[:, :NUM_SETS] > 0).float()
    together = opened.T @ opened / opened.sum(dim=0)
    assert together.fill_diagonal_(0).max() < 0.6


def test_whole_models_bytes_are_those_of_their_layers_and_one_output():
    bench = ModelBench.make(steered_model(SMALL), SMALL, "bf16")
    attention, ffn, kv = 2 * 128 * (128 + 64 + 64 + 128), 2 * 3 * 128 * 512, 2 * 2 * 64 * 129
    assert bench.bytes_of("dense") == 8 * (attention + ffn + kv) + 2 * 64 * 128


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_dense_and_sparse_kernels_read_every_row_they_claim(precision):
    case = KernelCase.make(64, 96, precision)
    for gate, up, down_t in case.ffns:
        assert (linear(case.x.float(), torch.ones(1, 64)) > 0).all()
        for weight in (gate, up, down_t):
            assert (weight.values > 0).float().mean() > 0.5
    rows = torch.zeros(3, dtype=torch.int64)
    from turbosparse.inference.operators import sparse_ffn  # noqa: PLC0415

    sparse_ffn(case.x, *case.ffns[0], rows_read=rows)
    assert rows.tolist() == [96, 96, 96]
    if precision == "fp32":
        gate, up, down_t = (weight.values for weight in case.ffns[0])
        expected = (relu(case.x @ gate.T) * relu(case.x @ up.T)) @ down_t
        torch.testing.assert_close(case.dense("all rows active", 0), expected, rtol=1e-5, atol=1e-5)
    shapes = {case.dense(way, 0).shape for way in DENSE_WAYS[(0 if precision in ("fp32", "bf16") else 1) :]}
    assert shapes == {(1, 64)}


def test_turns_are_of_like_length_and_ratios_are_of_rounds(monkeypatch):
    """A clock that only the ways move: 1 s and 10 s a step, but for one disturbed round."""
    now = [0.0]
    calls = {"fast": 0, "slow": 0}
    monkeypatch.setattr("turbosparse.bench.decode_rounds.time.perf_counter", lambda: now[0])

    def step(name, seconds, _):
        calls[name] += 1
        now[0] += seconds

    rounds = time_by_turns({"slow": partial(step, "slow", 10), "fast": partial(step, "fast", 1)}, 3)
    assert rounds == {"slow": [10] * 3, "fast": [1] * 3}
    assert calls["fast"] - 2 == 10 * (calls["slow"] - 2)
    assert median_ratio([10, 20, 10], [1, 2, 5]) == 10


@pytest.fixture(scope="module")
def report():
    threads = torch.get_num_threads()
    plan = DecodePlan(SMALL, replace(SMALL, num_experts=4), low_rank=16, num_rounds=2, with_peer=False)
    found = measure_decoding(plan)
    assert torch.get_num_threads() == threads
    return found


def test_the_report_has_what_is_promised(report):
    assert set(report["kernel"]) == {"0.05", "0.1", "0.15", "0.3"}
    for figures in report["kernel"].values():
        assert figures["ratio"] > 0 and figures["share_of_byte_ratio"] > 0
    for model in (report["mistral"], report["mixtral"], report["mixtral"]["int4"]):
        assert model["exact"] > 0 and model["predicted"] > 0
        assert (model["predictor_rank"], model["predictor_dtype"]) == (32, "int8")
        assert model["predicted_byte_ratio"] > model["exact_byte_ratio"] > 1
    low_rank = report["mistral"]["low_rank"]
    assert low_rank["predictor_rank"] == 16
    assert low_rank["predicted_byte_ratio"] > report["mistral"]["predicted_byte_ratio"]
    assert report["memory_bandwidth_bytes_per_second"] > 1e8
    assert report["llama_cpp_ratio"] is None and "llama_cpp_ratio" in report["why"]
    json.dumps(report, allow_nan=False)


def test_the_table_has_ours_and_the_papers_rows(report, tmp_path):
    rows = list(decoding_rows(report))
    assert len(rows) == 4 * len(report["bandwidth"]) * 4 - len(report["bandwidth"])  # int4 has no F.linear
    assert all(len(row) == 8 for row in [*rows, *paper_rows()])
    files = write_decoding(report, tmp_path)
    text = files[0].read_text()
    assert "| paper, PC-Laptop | Mixtral-47B | INT4 | all | PowerInfer | 16.1 | 2.32× |" in text
    assert all(note in text for note in decoding_notes(report))
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_the_peers_file_has_the_shapes_that_are_measured(shape, precision, tmp_path):
    if why_no_llama_cpp():
        pytest.skip("needs the llama-cpp extra")
    from gguf import GGUFReader  # noqa: PLC0415

    write_dense_model(tmp_path / "dense.gguf", shape, precision)
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "dense.gguf").tensors}
    experts = [] if shape.num_experts is None else [4]
    suffix = "_exps" if experts else ""
    assert tensors[f"blk.1.ffn_down{suffix}.weight"].shape.tolist() == [512, 128, *experts]
    assert tensors["blk.0.attn_k.weight"].shape.tolist() == [128, 64]
    assert tensors["output.weight"].shape.tolist() == [128, VOCAB_SIZE]
    kind = tensors[f"blk.0.ffn_gate{suffix}.weight"].tensor_type.name
    assert kind == {"bf16": "BF16", "int4": "Q4_0"}[precision]
