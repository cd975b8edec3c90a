"""Sparse decoding computes what dense decoding computes, reading less."""

import pytest
import torch
from torch.nn.functional import relu

from turbosparse.errors import DataError, ModelError
from turbosparse.inference.attention import KVCache, PositionTable
from turbosparse.inference.choosing import Sampling
from turbosparse.inference.decode import decode, report_decoding
from turbosparse.inference.decoder import Decoder
from turbosparse.inference.ffn import Preparation, Traffic
from turbosparse.inference.modules import decoding
from turbosparse.inference.quantize import dequantize, quantize
from turbosparse.model.convert import with_predictors
from turbosparse.model.folder import as_turbosparse

PROMPT = torch.tensor([1, 17, 42, 5])
OTHER_PROMPT = torch.tensor([1, 9, 80, 33, 12, 64, 7, 21, 50, 3, 77])


def generate(model, prompt, num_tokens, **options):
    ids = prompt if prompt.dim() == 2 else prompt[None]
    options = {"do_sample": False, "eos_token_id": None, "attention_mask": torch.ones_like(ids)} | options
    return model.generate(ids, max_new_tokens=num_tokens, **options)[:, ids.shape[1] :].tolist()


def test_exact_decoding_gives_the_dense_tokens_and_those_of_generate(model):
    dense = decode(model, PROMPT, 24, "dense").tokens
    assert decode(model, PROMPT, 24, "exact").tokens == dense
    assert generate(model, PROMPT, 24) == [dense]
    assert len(set(dense)) > 2, "a model that repeats one token would prove nothing"


def test_transformers_generate_decodes_sparsely_too(model):
    prompts = torch.stack([PROMPT, OTHER_PROMPT[:4]])
    dense = generate(model, prompts, 16)
    with decoding(model, "exact"):
        assert generate(model, prompts, 16) == dense
        ffn = model.model.layers[0].mlp.ffn
        gate, up, down = getattr(ffn, "experts", [ffn])[0].traffic.rows.tolist()
    assert gate > up > down > 0, "the FFNs that were swapped in have not run"


def test_sequences_of_one_batch_are_each_their_own(model):
    """Prompts of other lengths, beyond the sliding window, and experts shared by chance."""
    decoder = Decoder(model, "exact")
    together = list(decoder.stream([PROMPT, OTHER_PROMPT, PROMPT[:1]], 20))
    for number, prompt in enumerate((PROMPT, OTHER_PROMPT, PROMPT[:1])):
        assert [found[number] for found in together] == decode(model, prompt, 20, "dense").tokens


def test_the_stream_ends_when_every_sequence_has_stopped(model):
    decoder = Decoder(model, "dense")
    first, second = zip(*decoder.stream([PROMPT, OTHER_PROMPT], 20), strict=True)
    stop = [first[3], second[9]]
    last = max(first.index(stop[0]), next(i for i, token in enumerate(second) if token in stop))
    streamed = list(decoder.stream([PROMPT, OTHER_PROMPT], 20, stop_tokens=stop))
    assert len(streamed) == last + 1


def test_sampled_tokens_are_those_of_their_seed(model):
    decoder = Decoder(model, "exact")
    runs = [
        [found[0] for found in decoder.stream([PROMPT], 20, Sampling(temperature=1.0, seed=seed))]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert [found[0] for found in decoder.stream([PROMPT], 20, Sampling(temperature=2.0, top_k=1))] == [
        found[0] for found in decoder.stream([PROMPT], 20)
    ]


@pytest.mark.parametrize(("quantization", "furthest"), [("int8", 0.05), ("int4", 0.3)])
def test_quantised_weights_decode_nearly_the_same(model, quantization, furthest):
    def logits(how):
        decoder = Decoder(model, "exact", how)
        like = model.get_input_embeddings().weight
        with torch.inference_mode():
            cache = KVCache(model.config, 1, 1, like)
            table = PositionTable(model.model.rotary_emb, None, 1, like)
            return decoder.step(PROMPT[1:2], cache, table.at([0]))

    plain, quantised = logits("none"), logits(quantization)
    assert 0 < (quantised - plain).norm() / plain.norm() < furthest


def test_predictors_decide_what_is_computed(model):
    """With everything kept, decoding is dense; with FFNs dropped, it is not."""
    with_all = with_predictors(model, rank=4, seed=0).eval()
    with_all.config.predictor_threshold = -1e9
    dense = decode(with_all, PROMPT, 16, "dense").tokens
    assert decode(with_all, PROMPT, 16, "predicted").tokens == dense
    with decoding(with_all, "predicted"):
        assert generate(with_all, PROMPT, 16) == [dense]
    with_all.config.predictor_threshold = [1e9, -1e9, 1e9]
    assert decode(with_all, PROMPT, 16, "predicted").tokens != dense


def test_predictors_of_uneven_rank_predict_as_they_are():
    """Zeros that fill up a rank of 70 change no logit."""
    torch.manual_seed(0)
    fc1, fc2 = torch.randn(70, 32), torch.randn(64, 70)
    traffic = Traffic(torch.zeros(3, dtype=torch.int64))
    fitted = Preparation("predicted", "none", traffic).predictor(fc1, fc2, 0.0)
    x = torch.randn(5, 32)
    logits = relu(x @ dequantize(quantize(fc1, "int8")).T) @ dequantize(quantize(fc2, "int8")).T
    assert torch.equal(fitted.predict(x), logits > 0)


def test_thresholds_that_keep_nothing_are_refused(model):
    without = with_predictors(model, rank=4, seed=0).eval()
    without.config.predictor_threshold = 1e9
    with pytest.raises(ModelError, match="keep some neurons"):
        decode(without, PROMPT, 16, "predicted")


@pytest.mark.parametrize("mode", ["dense", "exact", "predicted"])
def test_the_report_counts_what_was_read(model, mode):
    """By hand: attention, output and FFN rows of fp32, int8 predictors, keys and values."""
    model = with_predictors(model, rank=4, seed=0).eval()
    model.config.predictor_threshold = -1e9 if mode == "predicted" else 0.0
    decoder = Decoder(model, mode)
    stream = decoder.stream([PROMPT], 3)
    next(stream)
    list(stream)
    report = report_decoding(decoder, 2, seconds=0.5)
    is_moe = hasattr(model.config, "num_local_experts")
    ffns = 3 * (2 if is_moe else 1)
    attention, output = 3 * 4 * 32 * (32 + 16 + 16 + 32), 4 * 96 * 32
    keys_and_values = 3 * 2 * 4 * 16 * (5 + 6) / 2
    predictor = ffns * (4 * (32 + 2) + 64 * (4 + 2)) if mode == "predicted" else 0
    gate, up, down = (rows / 2 for rows in decoder.traffic.rows.tolist())
    assert gate == ffns * 64
    assert (up == down == gate) if mode == "dense" else (gate > up > down > 0)
    assert report.bytes_per_token == attention + output + keys_and_values + predictor + 4 * 32 * (
        gate + up + down
    )
    assert report.active_ratio == down / gate
    assert report.tokens_per_second == 4
    assert report.bytes_per_second == 4 * report.bytes_per_token
    assert report.bandwidth_bytes_per_second > 1e8


def test_a_model_is_itself_again_after_sparse_decoding(model):
    before = [layer.mlp for layer in model.model.layers]
    with pytest.raises(RuntimeError, match="stop"), decoding(model, "exact"):
        raise RuntimeError("stop")
    assert [layer.mlp for layer in model.model.layers] == before


def test_modes_that_a_model_lacks_are_refused(model):
    with pytest.raises(ModelError, match="activation predictors"):
        decode(model, PROMPT, 4, "predicted")
    with pytest.raises(ModelError, match="drelu"):
        decode(as_turbosparse(model, "swiglu"), PROMPT, 4, "exact")
    with pytest.raises(ModelError, match="float32 or bfloat16"):
        decode(model.half(), PROMPT, 4, "exact")


def test_other_activations_decode_densely(model):
    swiglu = as_turbosparse(model, "swiglu")
    assert generate(swiglu, PROMPT, 12) == [decode(swiglu, PROMPT, 12, "dense").tokens]


@pytest.mark.parametrize(("prompt", "num_tokens"), [(torch.tensor([], dtype=torch.int64), 4), (PROMPT, 61)])
def test_prompts_that_do_not_fit_are_refused(model, prompt, num_tokens):
    with pytest.raises(DataError, match="at most 64"):
        decode(model, prompt, num_tokens, "dense")
