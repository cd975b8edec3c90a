"""The two operators of sparse decoding, registered with torch as `turbosparse::sparse_ffn` and `::linear`.

Here are their schemas and the slow, obvious reference, which computes wherever there is no faster
backend: C++ serves the CPU (see build.py), Triton CUDA (see triton_kernels.py). Backends are loaded when
they are first needed.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import relu

from turbosparse.inference.build import load_kernels
from turbosparse.inference.quantize import Weight, dequantize

_library = torch.library.Library("turbosparse", "DEF")
_library.define(
    "sparse_ffn(Tensor x, Tensor gate, Tensor up, Tensor down_t, Tensor? active=None, "
    "Tensor? gate_scales=None, Tensor? up_scales=None, Tensor? down_scales=None, "
    "Tensor(a!)? rows_read=None) -> Tensor"
)
_library.define("linear(Tensor x, Tensor[] weights, Tensor[] scales) -> Tensor")


def sparse_ffn(
    x: Tensor,
    gate: Weight,
    up: Weight,
    down_t: Weight,
    active: Tensor | None = None,
    rows_read: Tensor | None = None,
) -> Tensor:
    """Returns the dReLU FFN of a few tokens, having read only what is not multiplied by zero.

    A neuron's row of gate is read where it is active for some token, its row of up where the gate is
    then above zero, its row of down_t where their product is.

    Args:
        x: [tokens, hidden], fp32 or bf16.
        gate, up: [intermediate, hidden].
        down_t: [intermediate, hidden], the down projection transposed.
        active: [tokens, intermediate], bool: neurons that count; None: all do, and the output equals the
            dense FFN's up to rounding.
        rows_read: [3], int64: raised by the rows of gate, up and down_t that were read.

    Returns:
        [tokens, hidden] in x's dtype.

    Reference: Section 7 of the paper, and its Equation 2.
    """
    has_backend(x.device.type)
    scales = gate.scales, up.scales, down_t.scales
    output: Tensor = torch.ops.turbosparse.sparse_ffn(
        x, gate.values, up.values, down_t.values, active, *scales, rows_read
    )
    return output


def linear(x: Tensor, *weights: Weight) -> Tensor:
    """Multiplies a few tokens by weights, in one call, as several small ones cost a twentieth of a layer.

    Args:
        x: [..., columns].
        weights: [rows, columns] each, all of one dtype.

    Returns:
        x times each transposed, one beside the other: [..., rows of all], in x's dtype.
    """
    values = [weight.values for weight in weights]
    scales = [weight.scales for weight in weights if weight.scales is not None]
    assert len(scales) in (0, len(values)), "some are quantised and some are not"
    if not scales and not (x.is_cpu and has_backend("cpu")):
        return torch.cat([functional.linear(x, value) for value in values], dim=-1)
    output: Tensor = torch.ops.turbosparse.linear(x, values, scales)
    return output


@cache
def has_backend(device: str) -> bool:
    """Returns whether the operators have more than their reference on a device, loaded from here on."""
    if device == "cuda":
        import_module("turbosparse.inference.triton_kernels")
    return load_kernels() if device == "cpu" else device == "cuda"


def sparse_ffn_reference(  # noqa: PLR0913, PLR0917 - the schema's
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down_t: Tensor,
    active: Tensor | None = None,
    gate_scales: Tensor | None = None,
    up_scales: Tensor | None = None,
    down_scales: Tensor | None = None,
    rows_read: Tensor | None = None,
) -> Tensor:
    """Computes what `sparse_ffn` says, plainly, in fp32."""
    tokens = x.float()
    mask = torch.ones(len(x), len(gate), dtype=torch.bool, device=x.device) if active is None else active
    asked = mask.any(dim=0).nonzero().squeeze(1)
    gated = mask[:, asked] * relu(tokens @ _rows(gate, gate_scales, asked).T)
    open_gate = gated.any(dim=0)
    opened = asked[open_gate]
    combined = gated[:, open_gate] * relu(tokens @ _rows(up, up_scales, opened).T)
    not_zero = combined.any(dim=0)
    found = opened[not_zero]
    if rows_read is not None:
        rows_read += torch.tensor([len(asked), len(opened), len(found)], device=rows_read.device)
    return (combined[:, not_zero] @ _rows(down_t, down_scales, found)).to(x.dtype)


def linear_reference(x: Tensor, weights: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """Computes what `linear` says, plainly, in fp32."""
    matrices = [Weight(*parts) for parts in (zip(weights, scales, strict=True) if scales else zip(weights))]
    return torch.cat([x.float() @ dequantize(matrix).float().T for matrix in matrices], dim=-1).to(x.dtype)


def _rows(values: Tensor, scales: Tensor | None, rows: Tensor) -> Tensor:
    return dequantize(Weight(values[rows], None if scales is None else scales[rows])).float()


_library.impl("sparse_ffn", sparse_ffn_reference, "CompositeExplicitAutograd")
_library.impl("linear", linear_reference, "CompositeExplicitAutograd")


@torch.library.register_fake("turbosparse::sparse_ffn")
def _(x: Tensor, *_: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("turbosparse::linear")
def _(x: Tensor, weights: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:  # noqa: ARG001 - the schema's
    return x.new_empty(*x.shape[:-1], sum(map(len, weights)))
