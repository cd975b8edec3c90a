"""Texts that begin alike, computed once: prefix trees of token sequences, as rows of a batch.

Choices share their question, questions their examples. A row holds the nodes of one tree in place of the
sequences; a mask lets every node see its ancestors alone, so a node's logits are those that its sequence
would have by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class ScoredSequence:
    """A sequence, and how many of its last tokens' probabilities are wanted."""

    inputs: Tokens
    """What the model reads: all but the last token."""
    targets: Tokens
    """The last tokens: target i is predicted at the input that stands before it."""

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_tokens: int) -> "ScoredSequence":
        """Cuts the context from the left to a model's `max_tokens`, as the harness does."""
        assert context
        assert 0 < len(continuation) <= max_tokens
        whole = np.asarray([*context, *continuation][-(max_tokens + 1) :], dtype=np.int64)
        return cls(whole[:-1], whole[len(whole) - len(continuation) :])


@dataclass
class TreeRow:
    """The nodes of one prefix tree, those whose logits are wanted last."""

    tokens: Tokens
    positions: Tokens
    """Each node's depth: its token's place in its sequence."""
    sees: NDArray[np.bool_]
    """[nodes, nodes]: whether the first is the second, or one of its descendants."""
    num_wanted: int
    """Nodes at the end whose logits are wanted."""
    places: dict[int, Tokens]
    """By number of sequence: the wanted nodes that predict its targets, counted from the first wanted."""

    def __len__(self) -> int:
        """Returns the number of nodes."""
        return len(self.tokens)


def plant(sequences: Sequence[ScoredSequence], token_cost: float) -> list[TreeRow]:
    """Returns the sequences as rows, the longest row first.

    A sequence joins the tree of the one before it, in lexicographic order, where the tokens that it
    shares save more than the wider mask costs.

    Args:
        sequences: in any order; a row's `places` go by it.
        token_cost: a token's share of a layer beside attention, in units of one token seen by another.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number].inputs.tolist())
    rows: list[TreeRow] = []
    tree = _Tree()
    for number in order:
        inputs = sequences[number].inputs
        num_shared = tree.num_shared(inputs)
        if len(tree) and num_shared * token_cost <= _added_attention(len(tree), num_shared, len(inputs)):
            rows.append(tree.row(sequences))
            tree, num_shared = _Tree(), 0
        tree.add(number, inputs, num_shared)
    if len(tree):
        rows.append(tree.row(sequences))
    return sorted(rows, key=len, reverse=True)


def batches(rows: Sequence[TreeRow], max_batch_tokens: int) -> Iterator[list[TreeRow]]:
    """Yields rows in batches of at most so many tokens, padding included; a longer row by itself.

    Args:
        rows: the longest first.
        max_batch_tokens: rows of a batch times its longest row.
    """
    start = 0
    while start < len(rows):
        num_rows = max(1, max_batch_tokens // len(rows[start]))
        yield list(rows[start : start + num_rows])
        start += num_rows


def _added_attention(num_nodes: int, num_shared: int, num_inputs: int) -> int:
    """Returns how many more pairs of tokens a mask spans with the sequence in the tree than beside it."""
    joined = num_nodes + num_inputs - num_shared
    return joined**2 - num_nodes**2 - num_inputs**2


@dataclass
class _Tree:
    """A tree that grows: nodes in the order in which sequences brought them."""

    tokens: list[Tokens] = field(default_factory=list)
    last: Tokens = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """The sequence that came last."""
    path: Tokens = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Its nodes."""
    paths: dict[int, tuple[Tokens, int]] = field(default_factory=dict)
    """By sequence: its nodes, and how many of them earlier ones had brought."""
    num_nodes: int = 0

    def __len__(self) -> int:
        return self.num_nodes

    def num_shared(self, inputs: Tokens) -> int:
        """Returns how many tokens `inputs` and the last sequence begin with alike."""
        length = min(len(inputs), len(self.last))
        differing = np.flatnonzero(inputs[:length] != self.last[:length])
        return int(differing[0]) if len(differing) else length

    def add(self, number: int, inputs: Tokens, num_shared: int) -> None:
        num_new = len(inputs) - num_shared
        new = np.arange(self.num_nodes, self.num_nodes + num_new)
        self.tokens.append(inputs[num_shared:])
        self.path = np.concatenate([self.path[:num_shared], new])
        self.paths[number], self.last = (self.path, num_shared), inputs
        self.num_nodes += num_new

    def row(self, sequences: Sequence[ScoredSequence]) -> TreeRow:
        sees = np.zeros((self.num_nodes, self.num_nodes), dtype=bool)
        positions = np.empty(self.num_nodes, dtype=np.int64)
        is_wanted = np.zeros(self.num_nodes, dtype=bool)
        for number, (path, num_shared) in self.paths.items():
            new = path[num_shared:]
            sees[new[:, None], path] = np.tri(len(new), len(path), num_shared, dtype=bool)
            positions[new] = np.arange(num_shared, len(path))
            is_wanted[path[-len(sequences[number].targets) :]] = True
        order = np.argsort(is_wanted, kind="stable")
        place_of = np.argsort(order)
        num_wanted = int(is_wanted.sum())
        first_wanted = self.num_nodes - num_wanted
        places = {
            number: place_of[path[-len(sequences[number].targets) :]] - first_wanted
            for number, (path, _) in self.paths.items()
        }
        tokens = np.concatenate(self.tokens)[order]
        return TreeRow(tokens, positions[order], sees[np.ix_(order, order)], num_wanted, places)
