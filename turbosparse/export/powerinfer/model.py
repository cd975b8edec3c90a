"""One model as PowerInfer's files: the sparse one, the dense one, the predictors by themselves."""

import json
from pathlib import Path

from gguf import GGUFValueType as Kind
from torch import Tensor

from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.export.powerinfer.contract import Quantization, check_runnable, common_threshold
from turbosparse.export.powerinfer.gguf_file import DENSE_MAGIC, SPARSE_MAGIC, Keys, write_gguf
from turbosparse.export.powerinfer.tensors import changed_predictor, encoded_tensors
from turbosparse.export.powerinfer.vocabulary import engine_vocabulary
from turbosparse.export.tensor_files import save_tensors
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.folder import open_folder
from turbosparse.model.released import config_to_released
from turbosparse.model.rewrite import write_folder
from turbosparse.model.shards import StoredTensor, read_tensor

SPARSE_FILE, DENSE_FILE = "model.powerinfer.gguf", "model.dense.gguf"
ARCHITECTURE = "bamboo"
"""The one of the engine's architectures whose FFN is relu(gate) * relu(up)."""
FILE_TYPES: dict[Quantization, int] = {"f16": 1, "q4_0": 2}


def write_model(
    source: Path, folder: Path, quantization: Quantization, *, is_sparse: bool = True
) -> list[str]:
    """Writes `source`'s model into `folder`, one tensor in memory at a time.

    Returns what the engine will do otherwise than the model.

    Args:
        source: A model folder in any layout.
        folder: An existing folder; receives SPARSE_FILE or DENSE_FILE.
        quantization: Of the matrices; norms stay F32.
        is_sparse: Whether predictors go along; without, the engine decodes densely.

    Raises:
        ModelError: The engine can't run the model, or a weight does not fit its encoding.
        DataError: The engine has no such tokenizer.
    """
    config, tensors = open_folder(source)
    differences = check_runnable(config, quantization, is_sparse=is_sparse)
    vocabulary = engine_vocabulary(load_tokenizer(source), config.vocab_size)
    keys = _keys(config, quantization, is_sparse) | vocabulary.keys()
    encoded = encoded_tensors(config, tensors, quantization, is_sparse=is_sparse)
    if is_sparse:
        write_gguf(folder / SPARSE_FILE, ARCHITECTURE, keys, encoded, SPARSE_MAGIC)
    else:
        write_gguf(folder / DENSE_FILE, ARCHITECTURE, keys, encoded, DENSE_MAGIC)
    return [*differences, *vocabulary.notes]


def write_predictors(source: Path, folder: Path) -> list[str]:
    """Writes what PowerInfer's own converter reads: model/ without predictors, and predictors/.

    Raises:
        ModelError: The engine can't run the model.
    """
    config, tensors = open_folder(source)
    differences = check_runnable(config, "f16")
    assert isinstance(config, TurboSparseMistralConfig), "check_runnable has refused others"
    bare = {name: tensor for name, tensor in tensors.items() if ".predictor." not in name}
    write_folder(config_to_released(_with_one_threshold(config)), bare, source, folder / "model")
    copy_tokenizer(source, folder / "model")
    (folder / "predictors").mkdir()
    for layer in range(config.num_hidden_layers):
        save_tensors(_predictor(config, tensors, layer), folder / "predictors" / f"model_{layer}.pt")
    threshold = {"sparse_threshold": common_threshold(config)[0]}
    (folder / "predictors" / "config.json").write_text(json.dumps(threshold) + "\n", encoding="utf-8")
    return differences


def _keys(config: TurboSparseMistralConfig, quantization: Quantization, is_sparse: bool) -> Keys:
    keys: Keys = {
        "general.name": ("TurboSparse", Kind.STRING),
        "general.file_type": (FILE_TYPES[quantization], Kind.UINT32),
    }
    counts = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
    }
    numbers = {
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    keys |= {f"{ARCHITECTURE}.{name}": (value, Kind.UINT32) for name, value in counts.items()}
    keys |= {f"{ARCHITECTURE}.{name}": (value, Kind.FLOAT32) for name, value in numbers.items()}
    if is_sparse:
        keys["powerinfer.sparse_threshold"] = (common_threshold(config)[0], Kind.FLOAT32)
    return keys


def _predictor(
    config: TurboSparseMistralConfig, tensors: dict[str, StoredTensor], layer: int
) -> dict[str, Tensor]:
    prefix = f"model.layers.{layer}.mlp.predictor."
    names = ("fc1.weight", "fc2.weight")
    return {
        name: changed_predictor(config, prefix + name, read_tensor(tensors[prefix + name])) for name in names
    }


def _with_one_threshold(config: TurboSparseMistralConfig) -> TurboSparseMistralConfig:
    """Returns a configuration that the released layout can say: the threshold goes beside the predictors."""
    values = config.to_dict() | {"predictor_threshold": 0.0}
    found: TurboSparseMistralConfig = type(config).from_dict(values)
    return found
