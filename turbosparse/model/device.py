"""Where a model computes: chosen here, for everything that runs a whole model once."""

import os

import torch
from transformers import PreTrainedModel

ROOM_RATIO = 1.5
"""Free GPU memory that a model needs, over its weights: activations, caches and logits come on top."""


def best_device(model: PreTrainedModel) -> torch.device:
    """Returns a GPU with room for a model, else the CPU: 47B in fp32 fit on none.

    Under torchrun it is this process's own GPU or none.
    """
    needed_bytes = ROOM_RATIO * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    torch.cuda.empty_cache()  # without a GPU this does nothing
    for device in _gpus():
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if free_bytes > needed_bytes:
            return device
    return torch.device("cpu")


def on_best_device(model: PreTrainedModel) -> PreTrainedModel:
    """Moves a model in place to where it computes best, and returns it."""
    model.to(best_device(model))
    return model


def _gpus() -> list[torch.device]:
    num_gpus = torch.cuda.device_count()
    local_rank = os.environ.get("LOCAL_RANK")
    if num_gpus and local_rank is not None:
        return [torch.device("cuda", int(local_rank) % num_gpus)]
    return [torch.device("cuda", number) for number in range(num_gpus)]
