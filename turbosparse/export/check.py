"""What an export must prove, and what it is measured for."""

import platform
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.errors import ArtifactError
from turbosparse.inference.decode import decode

NUM_REPETITIONS = 3


@dataclass(frozen=True)
class DecodingSpeed:
    """Dense and exact-sparse decoding, timed against each other in one run."""

    dense_tokens_per_second: float
    exact_tokens_per_second: float
    ratio: float
    """Exact over dense: the median over repetitions, each pair timed one after the other."""
    machine: str
    """What it was measured on."""


def check_decoding(
    original: PreTrainedModel, reloaded: PreTrainedModel, prompt: Tensor, num_tokens: int
) -> None:
    """Compares what both models decode greedily after `prompt` [tokens].

    Raises:
        ArtifactError: They decode different tokens.
    """
    expected = decode(original, prompt, num_tokens, "dense").tokens
    found = decode(reloaded, prompt, num_tokens, "dense").tokens
    if found != expected:
        remedy = "report this: the export is not the model that was trained"
        raise ArtifactError("exported model", found, f"the tokens {expected}", remedy)


def time_decoding(model: PreTrainedModel, prompt: Tensor, num_tokens: int) -> DecodingSpeed:
    """Times dense and exact-sparse greedy decoding in turn, after one untimed round of each."""
    for mode in ("dense", "exact"):
        decode(model, prompt, 2, mode)
    pairs = [
        (
            decode(model, prompt, num_tokens, "dense").tokens_per_second,
            decode(model, prompt, num_tokens, "exact").tokens_per_second,
        )
        for _ in range(NUM_REPETITIONS)
    ]
    return DecodingSpeed(
        dense_tokens_per_second=median(dense for dense, _ in pairs),
        exact_tokens_per_second=median(exact for _, exact in pairs),
        ratio=median(exact / dense for dense, exact in pairs),
        machine=_machine(model.device),
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"
