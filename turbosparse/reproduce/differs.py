"""What differs from the paper: scale, data, hardware, in a line under every table and figure."""

import os
import platform
from pathlib import Path

import psutil
import torch

from turbosparse.reproduce.common import PRESETS, Reproduction, Request, is_dry, labelled_folders
from turbosparse.reproduce.made import MOE_PRESETS

_STUDY = "two models of 300M parameters, 5B tokens of FineWeb, 4 A100-80G"
_RECOVERED = "Mistral-7B and Mixtral-47B, recovered on 150B tokens, 64 A800-80G"
_ORIGINALS = "published models of 7B parameters and more"
PAPER_SETTINGS = {
    "table1": "Llama-2-7B and the ReLU models made of it; the text is not named",
    "table2": f"{_STUDY}; perplexity on WikiText-2",
    "table3": f"{_STUDY}; perplexity on WikiText-2",
    "table4": "the sources themselves, 150B tokens",
    "table5": _RECOVERED,
    "table6": f"{_RECOVERED}, then instruction tuning; the tasks' whole test sets",
    "table7": "PowerInfer and llama.cpp on two PCs (i9-14900HX, i7-12700K), the whole models",
    "table8": "PowerInfer and llama.cpp on two PCs with an RTX 4090 and an RTX 2080 Ti",
    "table10": f"{_STUDY}; the tasks' whole test sets",
    "table12": _STUDY,
    "table13": f"{_RECOVERED}, then instruction tuning; the tasks' whole test sets",
    "figure3": "ReLULlama-7B and Llama-2-7B",
    "figure4": _STUDY,
    "figure5": f"DeepSeek-MoE, Qwen1.5-MoE, Mixtral and Llama-2-7B: {_ORIGINALS}",
    "figure6": f"{_RECOVERED}; measured on FineWeb",
    "figure7": f"Mistral and Mixtral: {_ORIGINALS}",
    "activated": "the same architectures",
    "recovery": "Mistral-7B, recovered on 150B tokens, 64 A800-80G",
    "predictors": "has no figures on predictors",
}
_NOT_OF_A_SCALE = ("table7", "table8", "activated")


def describe_difference(result: Reproduction, request: Request) -> str:
    """Returns a line: what was measured here, on what, by which machine, and what the paper has."""
    return (
        f"Here: {_scale(result.name, request)}; {_data(request)}; {describe_hardware()}. "
        f"The paper: {PAPER_SETTINGS[result.name]}."
    )


def describe_hardware() -> str:
    """Returns this machine's processor, memory and GPUs, and torch's version."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(
        [
            f"{os.cpu_count()} cores of {processor or platform.processor() or platform.machine()}",
            f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
            *(gpus or ["no GPU"]),
            f"torch {torch.__version__}",
        ]
    )


def _scale(name: str, request: Request) -> str:
    if name in _NOT_OF_A_SCALE:
        return "the paper's widths"
    if request.models:
        return f"the models given ({', '.join(labelled_folders(request.models))})"
    presets = [PRESETS[request.scale], *filter(None, [MOE_PRESETS.get(request.scale)])]
    shortened = ", shortened by its dry_run block" if is_dry(request) and request.scale != "tiny" else ""
    return f"scale {request.scale} (preset {' and '.join(presets)}{shortened})"


def _data(request: Request) -> str:
    parts = [f"text: {request.text.name}"] if request.text else []
    parts += [f"tasks' items: {request.data.name}"] if request.data else []
    parts += [f"at most {request.limit} of each task"] if request.limit else []
    corpora = request.placement.corpora
    return ", ".join([*parts, f"corpora: {Path(corpora).name if corpora else 'as the preset says'}"])
