"""`turbosparse bench train`: what the dReLU FFN costs against transformers' SwiGLU FFN of the same width."""

import importlib
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralMLP

from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import GatedFFN

FFN = Callable[[Tensor], Tensor]


def measure_drelu(
    hidden_size: int, intermediate_size: int, num_tokens: int, repetitions: int
) -> dict[str, Any]:
    """Measures forward and backward of our dReLU FFN over those of transformers' SwiGLU MLP.

    Both have the same weights and input and run by turns, after an untimed round of each; every ratio
    of times is a median over rounds. bf16 on a GPU, fp32 elsewhere.

    Returns:
        drelu_vs_swiglu_time, drelu_vs_swiglu_memory: both under torch.compile; eager: the same two
        without it; memory_measure: `peak_allocated` (on a GPU) or `saved_for_backward` (bytes that the
        forward pass keeps beside the weights); liger_ratio: our time over that of Liger-Kernel's
        SwiGLU MLP, else None with a `why`; what was measured on, with which sizes and seconds.
    """
    assert repetitions > 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    ours, swiglu = _ours(sizes).to(device, dtype), MistralMLP(MistralConfig(**sizes)).to(device, dtype)
    ours.load_state_dict(swiglu.state_dict())
    x = torch.randn(num_tokens, hidden_size, device=device, dtype=dtype, requires_grad=True)
    eager = _compare(_with_input_twice(ours), swiglu, x, repetitions)
    compiled_ours: FFN = torch.compile(_with_input_twice(ours), fullgraph=True)
    compiled = _compare(compiled_ours, torch.compile(swiglu, fullgraph=True), x, repetitions)
    return {
        "drelu_vs_swiglu_time": compiled["time"],
        "drelu_vs_swiglu_memory": compiled["memory"],
        "eager": eager,
        "compiled": compiled,
        "memory_measure": "peak_allocated" if device.type == "cuda" else "saved_for_backward",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        **sizes,
        "num_tokens": num_tokens,
        "repetitions": repetitions,
        **_against_liger(compiled_ours, sizes, x, repetitions),
    }


def _ours(sizes: dict[str, int]) -> GatedFFN:
    return GatedFFN(TurboSparseMistralConfig(**sizes, activation="drelu"), layer=0)


def _with_input_twice(ffn: nn.Module) -> FFN:
    """Returns `ffn` as a function of one tensor; there is no predictor to read the second."""
    return lambda x: ffn(x, x)


def _compare(ours: FFN, theirs: FFN, x: Tensor, repetitions: int) -> dict[str, float]:
    """Returns ours over theirs, in time and memory, and each one's median seconds."""
    grad = torch.randn_like(x)
    for ffn in (ours, theirs):
        _seconds(ffn, x, grad)
    rounds = [_round(ours, theirs, x, grad, number) for number in range(repetitions)]
    return {
        "time": median(our / their for our, their in rounds),
        "memory": _memory_bytes(ours, x, grad) / _memory_bytes(theirs, x, grad),
        "seconds": median(our for our, _ in rounds),
        "swiglu_seconds": median(their for _, their in rounds),
    }


def _round(ours: FFN, theirs: FFN, x: Tensor, grad: Tensor, number: int) -> tuple[float, float]:
    """Returns the seconds of ours and theirs; who goes first alternates."""
    if number % 2:
        return _seconds(ours, x, grad), _seconds(theirs, x, grad)
    their_seconds = _seconds(theirs, x, grad)
    return _seconds(ours, x, grad), their_seconds


def _seconds(ffn: FFN, x: Tensor, grad: Tensor) -> float:
    """Returns the time of one forward and backward pass, gradients of input and weights included."""
    _wait(x)
    started = time.perf_counter()
    ffn(x).backward(grad)
    _wait(x)
    return time.perf_counter() - started


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def _memory_bytes(ffn: FFN, x: Tensor, grad: Tensor) -> int:
    if not x.is_cuda:
        return _saved_bytes(ffn, x)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ffn(x).backward(grad)
    return torch.cuda.max_memory_allocated() - before


def _saved_bytes(ffn: FFN, x: Tensor) -> int:
    """Returns the bytes of every storage that forward keeps for backward, weights apart."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        is_weight = tensor.is_leaf and tensor is not x and tensor.requires_grad
        is_weight = is_weight or isinstance(tensor._base, nn.Parameter)
        if not is_weight:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = ffn(x)  # until the sum is taken: a freed storage's address may be given out again
    assert saved and output.requires_grad
    return sum(saved.values())


def _against_liger(ours: FFN, sizes: dict[str, int], x: Tensor, repetitions: int) -> dict[str, Any]:
    if importlib.util.find_spec("liger_kernel") is None:
        return {"liger_ratio": None, "why": "liger_ratio: liger-kernel is not installed"}
    if not x.is_cuda:
        return {"liger_ratio": None, "why": "liger_ratio: its kernels run on a GPU only"}
    liger_class = importlib.import_module("liger_kernel.transformers").LigerSwiGLUMLP
    liger = liger_class(MistralConfig(**sizes)).to(x.device, x.dtype)
    return {"liger_ratio": _compare(ours, liger, x, repetitions)["time"]}
