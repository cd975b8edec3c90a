"""Levers of recovery that the paper does not use: each is off unless a run's configuration names it."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from turbosparse.config.base import Config


class DistillationConfig(Config):
    """Teaches the model what the original SwiGLU model would have predicted.

    A token's loss becomes (1 - weight) times its cross-entropy plus weight times temperature² times
    KL(original || model), both softened by the temperature. The original runs beside the model: about
    a third more computation, and its weights once more in memory on every rank.
    """

    weight: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the language-model loss; at 1 the text's own next tokens count for nothing."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """What both models' logits are divided by."""
    hidden_weight: Annotated[float, Ge(0)] = 0.0
    """Factor of a further term: the squared distance between both models' residual streams after each
    layer, relative to the original's own square, mean over layers. It tells each layer what it lost
    instead of the last one alone. Needs a model of the original's width and layers, as conversion gives."""
    hidden_share_of_steps: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the steps over which `hidden_weight` falls to 0 along half a cosine; none: it stays. Early
    on the term teaches fastest; later it holds the model to ways of the original that it can't keep."""


class SparsityPenaltyConfig(Config):
    """Adds weight times the mean of |h| over tokens, neurons and FFNs to the loss.

    h is what down reads: a smaller h is more often exactly zero. MoE experts count by the tokens that
    are routed to them.

    Reference: ProSparse (arXiv 2402.13516), Section 3.2: its L1 regulariser and its sine-shaped warm-up,
    here with a single stage.
    """

    weight: Annotated[float, Gt(0)]
    """Factor of the mean |h| once warmed up."""
    warmup_ratio: Annotated[float, Ge(0), Le(1)] = 0.3
    """Share of the steps over which the factor rises from 0 along half a sine wave."""


class ActivationScheduleConfig(Config):
    """Goes from SwiGLU to the converted model's activation step by step instead of at once.

    At share s of the way the FFNs compute h = (1 - s) · swiglu(gate, up) + s · activation(gate, up), for
    dReLU's two negative sides a slope that falls from 1 to 0. The model starts as the original, and
    every step finds it nearly recovered. The last steps train the activation itself.
    """

    share_of_steps: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the steps, at the start, over which s rises linearly from 0 to 1."""


class SequenceWarmupConfig(Config):
    """Cuts every sequence into pieces for the first share of the steps.

    A step's tokens stay the same, attention between them costs less, and how to read far is learned at
    the end. Packed text only: conversations are never cut.

    Reference: Li et al., The Stability-Efficiency Dilemma (arXiv 2108.06084), here with a single rise.
    """

    length_tokens: Annotated[int, Ge(2)]
    """Tokens of a piece; must divide `data.sequence_length`."""
    share_of_steps: Annotated[float, Gt(0), Lt(1)] = 0.7
    """Share of the steps, at the start, in which sequences are cut."""


class SamplingConfig(Config):
    """How documents are sampled from the original model, for `data.corpora: sampled`.

    Each begins with BOS and ends where the model says BOS or EOS, or at the longest length.
    """

    num_tokens: Annotated[int, Gt(0)] = 1_000_000
    """Tokens to sample, at least; an epoch of more (`data.num_tokens`) repeats them."""
    max_document_tokens: Annotated[int, Ge(2)] | None = None
    """Longest document; none: the model's context."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """What the logits are divided by; 1 samples the model's own distribution."""
    batch_size_documents: Annotated[int, Gt(0)] = 64
    """Documents that are sampled side by side."""
    seed: Annotated[int, Ge(0)] = 17
    """Seeds the sampling."""
