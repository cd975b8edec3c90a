"""Log-probabilities of continuations by a model in memory, what texts share computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.evaluation.ranks import ALONE, Ranks
from turbosparse.evaluation.trees import ScoredSequence, TreeRow, batches, plant

MAX_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}
"""Tokens per forward pass by kind of device: beyond these a pass gets longer, not faster."""


@dataclass(frozen=True)
class Score:
    """What a model makes of a sequence's targets."""

    log_probs: Tensor
    """Of each target, [targets], in the dtype of the model's logits."""
    is_greedy: bool
    """Whether each target is the likeliest token in its place."""

    @property
    def log_likelihood(self) -> float:
        """The sum, added up in the logits' own dtype, as the harness does it."""
        return float(self.log_probs.sum())


@torch.no_grad()
def score(
    model: PreTrainedModel,
    sequences: Sequence[ScoredSequence],
    max_batch_tokens: int | None = None,
    on_scored: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> list[Score]:
    """Returns the score of each sequence; every rank gets all of them.

    Args:
        model: in eval mode; it computes where it is.
        sequences: what to score, none of them longer than the model's context.
        max_batch_tokens: tokens per forward pass; None: the device's own.
        on_scored: hears how many more sequences have been scored, on all ranks together.
        ranks: who shares the work.
    """
    limit = max_batch_tokens or MAX_BATCH_TOKENS.get(model.device.type, MAX_BATCH_TOKENS["cuda"])
    trees = plant(sequences, token_cost(model))
    found: dict[int, Score] = {}
    for batch in batches(ranks.share(trees), limit):
        scored = _score_batch(model, [tree.row() for tree in batch], sequences)
        found |= scored
        if on_scored is not None:
            on_scored(len(scored) * ranks.size)
    everybodys = ranks.gather(found)
    return [everybodys[number] for number in range(len(sequences))]


def token_cost(model: PreTrainedModel) -> float:
    """Returns what a token costs in a layer beside attention, in pairs of tokens that attend to each other.

    Projections of attention and FFN take 4 h² + 3 h i multiplications, a pair of tokens 2 h.
    """
    config = model.config
    experts = getattr(config, "num_experts_per_tok", None) or 1
    return 2.0 * config.hidden_size + 1.5 * config.intermediate_size * experts


def _score_batch(
    model: PreTrainedModel, rows: Sequence[TreeRow], sequences: Sequence[ScoredSequence]
) -> dict[int, Score]:
    # In the logits' own dtype, as the harness does it: its figures are to be ours.
    log_probs = _wanted_logits(model, rows).log_softmax(-1)
    numbers: list[int] = []
    nodes: list[NDArray[np.int64]] = []
    first = 0
    for row in rows:
        numbers += row.places
        nodes += [first + places for places in row.places.values()]
        first += row.num_wanted
    targets = [sequences[number].targets for number in numbers]
    node, target = (
        torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(log_probs.device)
        for parts in (nodes, targets)
    )
    lengths = [len(one) for one in targets]
    of_targets = log_probs[node, target].cpu().split(lengths)
    are_likeliest = (log_probs.argmax(-1)[node] == target).cpu().split(lengths)
    return {
        number: Score(of_sequence, bool(are.all()))
        for number, of_sequence, are in zip(numbers, of_targets, are_likeliest, strict=True)
    }


def _wanted_logits(model: PreTrainedModel, rows: Sequence[TreeRow]) -> Tensor:
    """Returns the logits of all rows' wanted nodes, row after row: [nodes, vocabulary].

    Plain texts are padded on the right, where no token sees the padding. Trees are padded on the left, so
    that the wanted nodes of all end together.
    """
    length = max(len(row.tokens) for row in rows)
    if rows[0].sees is None:
        ends = [len(row.tokens) for row in rows]
        options: dict[str, Tensor] = {}
    else:
        ends = [length] * len(rows)
        options = _seen_in_trees(model, rows, length)
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    for number, (row, end) in enumerate(zip(rows, ends, strict=True)):
        tokens[number, end - len(row.tokens) : end] = row.tokens
    first = min(end - row.num_wanted for row, end in zip(rows, ends, strict=True))
    input_ids = torch.from_numpy(tokens).to(model.device)
    logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=length - first, **options).logits
    wanted = [
        kept[end - row.num_wanted - first : end - first]
        for kept, row, end in zip(logits, rows, ends, strict=True)
    ]
    return torch.cat(wanted)


def _seen_in_trees(model: PreTrainedModel, rows: Sequence[TreeRow], length: int) -> dict[str, Tensor]:
    """Returns the rows' positions and masks, as the model's forward takes them."""
    positions = np.zeros((len(rows), length), dtype=np.int64)
    # Padding sees itself: a row of a mask that sees nothing gives no number.
    sees = np.repeat(np.eye(length, dtype=bool)[None], len(rows), axis=0)
    for number, row in enumerate(rows):
        start = length - len(row.tokens)
        positions[number, start:] = row.positions
        sees[number, start:, start:] = row.sees
    if (window := getattr(model.config, "sliding_window", None)) is not None:
        sees &= positions[:, :, None] - positions[:, None, :] < window
    mask = _additive(torch.from_numpy(sees).to(model.device), model.dtype)
    return {
        "position_ids": torch.from_numpy(positions).to(model.device),
        "attention_mask": mask[:, None],
    }


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a mask as every attention takes it: 0 where seen, the lowest number elsewhere."""
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)
