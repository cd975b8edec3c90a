"""A folder for PowerInfer: the model's file, and what was asked for beside it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from turbosparse.errors import ConfigError
from turbosparse.export.powerinfer.activations import count_activations, write_activations
from turbosparse.export.powerinfer.contract import Quantization
from turbosparse.export.powerinfer.engine import check_with_engine, find_program
from turbosparse.export.powerinfer.gpu_split import (
    INDEX_SUFFIX,
    bytes_per_neuron,
    hottest_neurons,
    plan_budget,
    write_gpu_index,
)
from turbosparse.export.powerinfer.model import SPARSE_FILE, write_model
from turbosparse.export.powerinfer.tensors import encoded_tensors
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.folder import open_folder
from turbosparse.model.rewrite import whole_folder


@dataclass(frozen=True)
class PowerInferOptions:
    """What goes into the folder beside the model's file."""

    quantization: Quantization = "f16"
    statistics: Path | None = None
    """A text on which neurons' activations are counted."""
    num_statistics_tokens: int = 65_536
    vram_gib: float | None = None
    """GPU memory that the engine will be given, for an index of the neurons that it holds."""
    context_tokens: int = 4_096
    """The longest context that the engine will be run with, for the size of its cache."""
    engine: Path | None = None
    """A built PowerInfer that checks the file."""
    engine_text: Path | None = None
    """The text on which it does; none: the statistics' text."""

    def __post_init__(self) -> None:
        """Checks that they go together.

        Raises:
            ConfigError: One needs another that is not there.
        """
        if self.vram_gib is not None and self.statistics is None:
            expected = "--statistics beside it: the GPU gets the most active neurons"
            raise ConfigError("--vram-gib", self.vram_gib, expected, "give a text with --statistics FILE")
        if self.engine is not None and self.engine_text is None and self.statistics is None:
            expected = "a text to measure perplexity on"
            raise ConfigError("--engine", str(self.engine), expected, "give one with --engine-text FILE")


def export_powerinfer(source: Path, target: Path, options: PowerInferOptions) -> dict[str, Any]:
    """Writes `target` with SPARSE_FILE and what the options ask for; returns what was found.

    The model's file needs memory for one tensor; statistics and the engine's check load the model.

    Raises:
        ModelError: PowerInfer can't run the model.
        DataError: It has no such tokenizer, or a text can't be used.
        ArtifactError: The target is not empty, the disk is full, or the engine decodes another model.
    """
    if options.engine is not None:
        find_program(options.engine)  # before anything is written
    with whole_folder(target) as folder:
        differences = write_model(source, folder, options.quantization)
        found: dict[str, Any] = {"file": str(target / SPARSE_FILE), "quantization": options.quantization}
        if options.statistics is not None:
            counts = count_activations(source, options.statistics, options.num_statistics_tokens)
            write_activations(counts, folder)
            if options.vram_gib is not None:
                found["gpu_split"] = _write_split(source, folder, options, counts, options.vram_gib)
        text = options.engine_text or options.statistics
        if options.engine is not None and text is not None:
            check = check_with_engine(options.engine, source, folder, options.quantization, text)
            found["perplexity"] = asdict(check)
    return found | {"warnings": differences}


def _write_split(
    source: Path, folder: Path, options: PowerInferOptions, counts: list[Tensor], vram_gib: float
) -> dict[str, Any]:
    config, stored = open_folder(source)
    assert isinstance(config, TurboSparseMistralConfig), "write_model has refused others"
    tensors = encoded_tensors(config, stored, options.quantization)
    context = min(options.context_tokens, config.max_position_embeddings)
    budget = plan_budget(tensors, vram_gib, config.num_hidden_layers, context)
    neuron_bytes = bytes_per_neuron(tensors)
    neurons = hottest_neurons(counts, budget.ffn_bytes // neuron_bytes)
    index = folder / f"{SPARSE_FILE}{INDEX_SUFFIX}"
    write_gpu_index(index, neurons, config.intermediate_size, neuron_bytes)
    activations = sum(int(layer.sum()) for layer in counts)
    held = sum(int(layer[chosen].sum()) for layer, chosen in zip(counts, neurons, strict=True))
    return {
        "neuron_ratio": sum(map(len, neurons)) / (config.intermediate_size * len(neurons)),
        "activation_ratio": held / activations if activations else None,
        "ffn_bytes": sum(map(len, neurons)) * neuron_bytes,
        "context_tokens": context,
    }
