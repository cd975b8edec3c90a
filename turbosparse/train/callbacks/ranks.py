"""What callbacks share: the module behind Composer's state, and figures that all ranks agree on."""

import torch
from composer.core import State
from composer.utils import dist
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from turbosparse.train.module import CausalLMTraining


def module_of(state: State) -> CausalLMTraining:
    """Returns the module that is being trained."""
    assert isinstance(state.model, CausalLMTraining)
    return state.model


def reshard(model: PreTrainedModel) -> None:
    """Lets go of weights that FSDP2 keeps gathered for a backward pass, which does not come here."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def global_losses(module: CausalLMTraining) -> dict[str, float]:
    """Returns this step's losses by name, each a mean over the global batch; every rank must ask."""
    kept = [loss.double() for loss in module.losses.values()]
    sums = torch.stack([*kept, torch.full_like(kept[0], module.num_sequences)])
    dist.all_reduce(sums)
    *totals, num_sequences = sums.tolist()
    return {name: total / num_sequences for name, total in zip(module.losses, totals, strict=True)}
