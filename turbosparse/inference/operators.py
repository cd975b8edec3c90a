"""The operators of sparse decoding, registered with torch: `turbosparse::sparse_ffn`, `::linear` and others.

Here are their schemas and the slow, obvious reference, which computes wherever there is no faster
backend: C++ serves the CPU (see build.py), Triton CUDA (see triton_kernels.py). Backends are loaded when
they are first needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
_library.define(
    "predict(Tensor x, Tensor fc1, Tensor fc2, Tensor fc1_scales, Tensor fc2_scales, float threshold) "
    "-> Tensor"
)
_library.define("route(Tensor x, Tensor weight, int num_chosen) -> (Tensor, Tensor)")
_library.define("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor")
_library.define(
    "attend(Tensor heads, Tensor(a!) block, Tensor slots, Tensor cos, Tensor sin, int first, int end, "
    "Tensor? mask=None) -> Tensor"
)


@dataclass(frozen=True)
class Positions:
    """Where a step's tokens stand, and what they may look at."""

    slots: Tensor
    """[sequences], int64."""
    first: int
    """The first slot that some token looks at."""
    end: int
    """The slot after the last one."""
    cos: Tensor
    """[sequences, 1, head dim]; so `sin`."""
    sin: Tensor
    mask: Tensor | None
    """[sequences, 1, 1, end - first], bool; None: all see the same slots."""


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
    """Multiplies a few tokens by weights in one call: each small one would start the threads anew.

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


def predict(x: Tensor, fc1: Weight, fc2: Weight, threshold: float) -> Tensor:
    """Returns which neurons a predictor takes to be active: [tokens, intermediate], bool.

    Args:
        x: [tokens, hidden].
        fc1: [rank, hidden], quantised.
        fc2: [intermediate, rank], quantised.
        threshold: the logit above which a neuron is predicted active.
    """
    has_backend(x.device.type)
    weights = fc1.values, fc2.values, fc1.scales, fc2.scales
    active: Tensor = torch.ops.turbosparse.predict(x, *weights, threshold)
    return active


def route(x: Tensor, router: Weight, num_chosen: int) -> tuple[Tensor, Tensor]:
    """Returns each token's experts and their weights, which sum to 1, the heaviest first.

    Args:
        x: [tokens, hidden].
        router: [experts, hidden], not quantised.
        num_chosen: experts per token.

    Returns:
        Weights [tokens, chosen], fp32, and experts [tokens, chosen], int64.
    """
    has_backend(x.device.type)
    weights, experts = torch.ops.turbosparse.route(x, router.values, num_chosen)
    return weights, experts


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Returns `x` [..., hidden] divided by its root mean square, times `weight` [hidden]."""
    has_backend(x.device.type)
    output: Tensor = torch.ops.turbosparse.rms_norm(x, weight, epsilon)
    return output


def attend(heads: Tensor, block: Tensor, positions: Positions) -> Tensor:
    """Returns what each token's queries see: [sequences, heads * head dim].

    Args:
        heads: one token's queries, keys and values per sequence, not rotated yet:
            [sequences, heads + 2 * kv heads, head dim].
        block: keys and values of one layer, [2, sequences, kv heads, slots, head dim]; the tokens' own are
            written there.
        positions: of the tokens.
    """
    has_backend(heads.device.type)
    where = positions.slots, positions.cos, positions.sin, positions.first, positions.end, positions.mask
    output: Tensor = torch.ops.turbosparse.attend(heads, block, *where)
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


def predict_reference(
    x: Tensor, fc1: Tensor, fc2: Tensor, fc1_scales: Tensor, fc2_scales: Tensor, threshold: float
) -> Tensor:
    """Computes what `predict` says, plainly, in fp32."""
    hidden = relu(x.float() @ dequantize(Weight(fc1, fc1_scales)).T)
    return hidden @ dequantize(Weight(fc2, fc2_scales)).T > threshold


def route_reference(x: Tensor, weight: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    """Computes what `route` says: all experts' shares, made to sum to 1, are the chosen logits' softmax."""
    logits, experts = functional.linear(x, weight).float().topk(num_chosen)
    return logits.softmax(dim=-1), experts


def rms_norm_reference(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Computes what `rms_norm` says."""
    return functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def attend_reference(
    heads: Tensor,
    block: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    first: int,
    end: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Computes what `attend` says, with plain products.

    Torch's own fused attention takes six times as long for one token (943 µs against 161, 32 heads over
    129 tokens of bf16, one core).
    """
    num_kv_heads = block.shape[2]
    turned, value = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
    left, right = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-right, left], dim=-1) * sin
    sequences = torch.arange(len(heads), device=heads.device)
    block[0][sequences, :, slots] = turned[:, -num_kv_heads:]
    block[1][sequences, :, slots] = value
    keys, values = block[:, :, :, first:end]
    queries = turned[:, :-num_kv_heads].unflatten(1, (num_kv_heads, -1))
    scores = (queries @ keys.transpose(2, 3)).float() * heads.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1).to(values.dtype) @ values).flatten(1)


def _rows(values: Tensor, scales: Tensor | None, rows: Tensor) -> Tensor:
    return dequantize(Weight(values[rows], None if scales is None else scales[rows])).float()


_library.impl("sparse_ffn", sparse_ffn_reference, "CompositeExplicitAutograd")
_library.impl("linear", linear_reference, "CompositeExplicitAutograd")
_library.impl("predict", predict_reference, "CompositeExplicitAutograd")
_library.impl("route", route_reference, "CompositeExplicitAutograd")
_library.impl("rms_norm", rms_norm_reference, "CompositeExplicitAutograd")
_library.impl("attend", attend_reference, "CompositeExplicitAutograd")


@torch.library.register_fake("turbosparse::sparse_ffn")
def _(x: Tensor, *_: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("turbosparse::linear")
def _(x: Tensor, weights: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:  # noqa: ARG001 - the schema's
    return x.new_empty(*x.shape[:-1], sum(map(len, weights)))


@torch.library.register_fake("turbosparse::predict")
def _(x: Tensor, _: Tensor, fc2: Tensor, *__: object) -> Tensor:
    return x.new_empty(len(x), len(fc2), dtype=torch.bool)


@torch.library.register_fake("turbosparse::route")
def _(x: Tensor, _: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    weights = x.new_empty(len(x), num_chosen, dtype=torch.float32)
    return weights, torch.empty_like(weights, dtype=torch.int64)


@torch.library.register_fake("turbosparse::rms_norm")
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("turbosparse::attend")
def _(heads: Tensor, block: Tensor, *_: object) -> Tensor:
    return heads.new_empty(len(heads), (heads.shape[1] - 2 * block.shape[2]) * heads.shape[2])
