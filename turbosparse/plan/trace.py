"""Memory of one training step, read off the model's own code while it runs on fake tensors.

Nothing is computed and nothing allocated: tensors have shapes only, ranks are hallucinated by torch's
fake process group. What the model, FSDP2 or transformers change shows here without a change of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from turbosparse.config import PredictorConfig
from turbosparse.model.layout import OurConfig, our_class
from turbosparse.train.observer import TrainingObserver
from turbosparse.train.sharding import mixed_precision, shard_model

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class StepShape:
    """What decides the memory of a microbatch's forward and backward pass, the model apart."""

    sequence_length: int
    """In tokens."""
    microbatch_sequences: int
    """Sequences per forward pass of one rank."""
    num_ranks: int = 1
    """More than one: sharded by FSDP2."""
    precision: Precision = "bf16"
    """`bf16`: mixed precision as on a GPU; `fp32`: as on a CPU."""
    activation_checkpointing: bool = False
    """Whether layers are computed again in the backward pass."""
    weights_are_gathered: bool = False
    """Whether the weights already are as FSDP2 gathers them: in the precision that layers compute in."""

    def unsharded(self) -> "StepShape":
        """Returns the step as a rank sees it that needn't gather what it computes with."""
        return replace(self, num_ranks=1, weights_are_gathered=self.num_ranks > 1)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make and something still refers to."""

    def __init__(self, ignored: list[Tensor]) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._ignored = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in ignored})
        self._live = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and looks at what there is after it, its inputs included."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its local operations come here by themselves
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, result)
        # FSDP2 empties storages without letting go of them: sizes are asked each time.
        self.peak_bytes = max(self.peak_bytes, sum(storage.nbytes() for storage in self._live))
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._ignored:
            self._live[storage] = None


def trace_step(
    config: OurConfig, step: StepShape, num_layers: int, predictor: PredictorConfig | None = None
) -> int:
    """Returns the peak bytes of one microbatch, weights and accumulated gradients apart.

    A gradient counts while it is new and waits to be added to those of earlier microbatches.

    Args:
        config: The model's, but for the number of layers.
        step: Of a shape that the memory at hand needn't hold.
        num_layers: Decoder layers to run; 0 leaves embedding, output projection and loss.
        predictor: Trains the predictors that a dense model has.
    """
    rank = config.rank_of(0)
    config = type(config)(
        **{
            **config.to_dict(),
            "num_hidden_layers": num_layers,
            "predictor_rank": rank,
            "predictor_threshold": 0.0,
        }
    )
    with _fake_ranks(step.num_ranks) as mesh, FakeTensorMode():
        model = _prepare(config, step, mesh)
        held = [_local(tensor) for tensor in (*model.parameters(), *model.buffers())]
        with LiveBytes(held) as live:
            _run_microbatch(model, step, TrainingObserver(predictor) if predictor else None)
    return live.peak_bytes


def _prepare(config: OurConfig, step: StepShape, mesh: DeviceMesh | None) -> PreTrainedModel:
    is_bf16 = step.precision == "bf16" and step.weights_are_gathered
    with _default_dtype(torch.bfloat16 if is_bf16 else torch.float32):
        model = our_class(config)(config).train()
    if step.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if mesh is not None:
        shard_model(model, mesh, mixed_precision("cuda" if step.precision == "bf16" else "cpu"))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    return model


def _run_microbatch(model: PreTrainedModel, step: StepShape, observer: TrainingObserver | None) -> None:
    """Does what the trainer does: see turbosparse/train/module.py."""
    tokens = torch.zeros(step.microbatch_sequences, step.sequence_length, dtype=torch.int64)
    is_moe = hasattr(model.config, "num_local_experts") and model.config.num_hidden_layers > 0
    arguments = {"output_router_logits": True} if is_moe else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=step.precision == "bf16"):
        with observer.watching(model, observer) if observer else nullcontext():
            output = model(input_ids=tokens, use_cache=False, **arguments)
        loss = model.loss_function(output.logits, tokens, vocab_size=model.config.vocab_size)
        if is_moe:
            loss = loss + output.aux_loss
        if observer:
            loss = loss + observer.predictor_loss()
    loss.backward()


def _drop_gradient(parameter: nn.Parameter) -> None:
    parameter.grad = None


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _fake_ranks(num_ranks: int) -> Iterator[DeviceMesh | None]:
    """Lets this process be the first of many ranks, for as long as nobody needs an answer."""
    if num_ranks == 1:
        yield None
        return
    assert not dist.is_initialized(), "planning needs a process that trains nothing itself"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield init_device_mesh("cpu", (num_ranks,))
    finally:
        dist.destroy_process_group()
