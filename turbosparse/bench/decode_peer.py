"""llama.cpp on the same shapes, as the outside peer: it decodes a dense model file that we write."""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from turbosparse.bench.decode_shapes import Shape
from turbosparse.inference.quantize import BLOCK

VOCAB_SIZE = 512
"""Small, so that layers are what is timed; a whole model's output projection is added by its bytes."""
NUM_EVALUATIONS = 6
CONTEXT_TOKENS = 128


class LlamaCpp:
    """A running llama.cpp with a dense model of some layers."""

    def __init__(self, file: Path, num_threads: int) -> None:
        import xllamacpp  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - an optional extra

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx = 256
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = num_threads
        parameters.verbosity = -1
        self.server = xllamacpp.Server(parameters)

    def decode(self, _: int) -> None:
        """Evaluates NUM_EVALUATIONS tokens one by one: the last of a cached prompt, and new ones."""
        request = {
            "prompt": list(range(3, 3 + CONTEXT_TOKENS)),
            "n_predict": NUM_EVALUATIONS,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": True,
        }
        timings = self.server.handle_completions(request)["timings"]
        assert timings["predicted_n"] == NUM_EVALUATIONS, timings


def why_no_llama_cpp() -> str | None:
    """Returns what is missing for llama.cpp to run here; None: nothing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp not installed: pip install 'turbosparse[llama-cpp]'"
    return None


@contextmanager
def llama_cpp(shape: Shape, precision: str, num_threads: int) -> Iterator[LlamaCpp]:
    """Gives a llama.cpp that decodes `shape`'s measured layers, dense, in `precision` (bf16 or int4)."""
    with tempfile.TemporaryDirectory(prefix="turbosparse-bench-") as place:
        file = Path(place) / "dense.gguf"
        write_dense_model(file, shape, precision)
        engine = LlamaCpp(file, num_threads)
        engine.decode(0)
        yield engine


def whole_model_seconds(shape: Shape, precision: str, measured: float) -> float:
    """Returns the whole model's seconds per token, derived by bytes.

    Args:
        shape: of the model.
        precision: of its weights.
        measured: seconds of one `decode`.
    """
    per_weight = 2.0 if precision == "bf16" else 0.5 + 2 / BLOCK
    output = shape.hidden_size * per_weight
    layers = shape.num_measured_layers * _layer_weights(shape) * per_weight
    per_byte = measured / NUM_EVALUATIONS / (layers + VOCAB_SIZE * output)
    return per_byte * (layers * shape.num_layers / shape.num_measured_layers + shape.vocab_size * output)


def write_dense_model(file: Path, shape: Shape, precision: str) -> None:
    """Writes a dense Llama of random weights, BF16 or Q4_0, in llama.cpp's own format."""
    import gguf  # noqa: PLC0415 - only where the peer is there

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_measured_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.hidden_size // shape.num_heads)
    writer.add_vocab_size(VOCAB_SIZE)
    if shape.num_experts is not None:
        writer.add_expert_count(shape.num_experts)
        writer.add_expert_used_count(2)
    _add_vocabulary(writer, gguf)
    random = np.random.default_rng(0)
    for name, size in _matrices(shape).items():
        values, kind = _random_matrix(random, size, precision, gguf)
        writer.add_tensor(name, values, raw_dtype=kind)
    for name in _vectors(shape):
        writer.add_tensor(name, np.ones(shape.hidden_size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, gguf: Any) -> None:
    """Adds a tokenizer that llama.cpp accepts; prompts are given as token ids."""
    kinds = gguf.TokenType
    special = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens = special + [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    tokens += [(f"word{number}", kinds.NORMAL) for number in range(len(tokens), VOCAB_SIZE)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([0.0] * VOCAB_SIZE)
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _matrices(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    kv = hidden // shape.num_heads * shape.num_kv_heads
    matrices: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB_SIZE, hidden),
        "output.weight": (VOCAB_SIZE, hidden),
    }
    suffix, experts = ("", ()) if shape.num_experts is None else ("_exps", (shape.num_experts,))
    for layer in range(shape.num_measured_layers):
        sizes: dict[str, tuple[int, ...]] = {
            "attn_q": (hidden, hidden),
            "attn_k": (kv, hidden),
            "attn_v": (kv, hidden),
            "attn_output": (hidden, hidden),
            f"ffn_gate{suffix}": (*experts, intermediate, hidden),
            f"ffn_up{suffix}": (*experts, intermediate, hidden),
            f"ffn_down{suffix}": (*experts, hidden, intermediate),
        }
        if shape.num_experts is not None:
            sizes["ffn_gate_inp"] = (shape.num_experts, hidden)
        matrices |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
    return matrices


def _vectors(shape: Shape) -> list[str]:
    layers = range(shape.num_measured_layers)
    norms = [f"blk.{layer}.{name}_norm.weight" for layer in layers for name in ("attn", "ffn")]
    return [*norms, "output_norm.weight"]


def _random_matrix(
    random: np.random.Generator, size: tuple[int, ...], precision: str, gguf: Any
) -> tuple[np.ndarray, Any]:
    """Returns a matrix's bytes and GGML type: values of about 0.02 in BF16 or Q4_0; a router in F32."""
    kinds = gguf.GGMLQuantizationType
    if len(size) == 2 and size[0] < BLOCK:
        return random.standard_normal(size, np.float32), kinds.F32
    # The upper halves of fp32; a small stretch over and over, for making it takes longer than reading it.
    if precision == "bf16":
        some = (random.standard_normal(2**20, np.float32) * 0.02).view(np.uint16)[1::2]
        return np.resize(some, size).view(np.uint8), kinds.BF16
    blocks = random.integers(0, 256, (2**16, 2 + BLOCK // 2), np.uint8)
    blocks[:, :2] = np.full(1, 0.004, np.float16).view(np.uint8)
    shape = (*size[:-1], size[-1] // BLOCK * blocks.shape[1])
    return np.resize(blocks, shape), kinds.Q4_0


def _layer_weights(shape: Shape) -> int:
    """Weights of a layer that one token reads."""
    hidden = shape.hidden_size
    attention = 2 * hidden * hidden * (1 + shape.num_kv_heads / shape.num_heads)
    num_ffns = 1 if shape.num_experts is None else 2
    return round(attention) + num_ffns * 3 * hidden * shape.intermediate_size
