"""Texts that begin alike, computed once: prefix trees of token sequences, as rows of a batch.

Choices share their question, questions their examples. A row holds the nodes of one tree in place of its
sequences; a mask lets every node see its ancestors alone, so a node's logits are those that its sequence
would have by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class ScoredSequence:
    """A sequence, and how many of its last tokens' probabilities are wanted."""

    inputs: Tokens
    """What the model reads: all but the last token."""
    targets: Tokens
    """The last tokens: target i is predicted at the input that stands before it."""

    @classmethod
    def of(
        cls, context: Sequence[int] | Tokens, continuation: Sequence[int] | Tokens, max_tokens: int
    ) -> "ScoredSequence":
        """Cuts the context from the left to a model's `max_tokens`, as the harness does."""
        assert len(context)
        assert 0 < len(continuation) <= max_tokens
        whole = np.concatenate([context, continuation]).astype(np.int32)[-(max_tokens + 1) :]
        return cls(whole[:-1], whole[len(whole) - len(continuation) :])


@dataclass(frozen=True)
class TreeRow:
    """The nodes of one prefix tree, those whose logits are wanted last."""

    tokens: Tokens
    positions: NDArray[np.int64]
    """Each node's depth: its token's place in its sequence."""
    sees: NDArray[np.bool_] | None
    """[nodes, nodes]: whether the first is the second, or one of its descendants; None: a text without
    branches, in its own order."""
    num_wanted: int
    """Nodes at the end whose logits are wanted."""
    places: dict[int, NDArray[np.int64]]
    """By number of sequence: the wanted nodes that predict its targets, counted from the first wanted."""


@dataclass
class Tree:
    """A prefix tree that grows by sequences in lexicographic order.

    Nodes go by the order in which sequences brought them. The mask, by far the largest part of a row, is
    made when the row is.
    """

    num_nodes: int = 0
    tokens: list[Tokens] = field(default_factory=list)
    paths: dict[int, Tokens] = field(default_factory=dict)
    """Each sequence's nodes, by its number."""
    targets: dict[int, int] = field(default_factory=dict)
    """How many of them are wanted."""
    last: Tokens = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """The sequence that came last, and its nodes."""
    last_path: Tokens = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def __len__(self) -> int:
        """Returns the number of nodes."""
        return self.num_nodes

    @property
    def has_branches(self) -> bool:
        """Whether some sequence is not the beginning of another."""
        return self.num_nodes > len(self.last_path)

    def num_shared(self, inputs: Tokens) -> int:
        """Returns how many tokens `inputs` and the last sequence begin with alike."""
        length = min(len(inputs), len(self.last))
        differing = np.flatnonzero(inputs[:length] != self.last[:length])
        return int(differing[0]) if len(differing) else length

    def add(self, number: int, sequence: ScoredSequence) -> None:
        """Adds a sequence: nodes for what it does not share with the last one."""
        inputs = sequence.inputs
        num_shared = self.num_shared(inputs)
        new = np.arange(self.num_nodes, self.num_nodes + len(inputs) - num_shared, dtype=np.int32)
        self.tokens.append(inputs[num_shared:])
        self.last, self.last_path = inputs, np.concatenate([self.last_path[:num_shared], new])
        self.paths[number], self.targets[number] = self.last_path, len(sequence.targets)
        self.num_nodes += len(new)

    def row(self) -> TreeRow:
        """Returns the tree as a row of a batch."""
        return self._branched_row() if self.has_branches else self._plain_row()

    def _plain_row(self) -> TreeRow:
        first_wanted = min(int(self._wanted(number)[0]) for number in self.paths)
        places = {number: self._wanted(number).astype(np.int64) - first_wanted for number in self.paths}
        positions = np.arange(self.num_nodes)
        return TreeRow(self.last, positions, None, self.num_nodes - first_wanted, places)

    def _branched_row(self) -> TreeRow:
        sees = np.zeros((self.num_nodes, self.num_nodes), dtype=bool)
        positions = np.empty(self.num_nodes, dtype=np.int64)
        is_wanted = np.zeros(self.num_nodes, dtype=bool)
        num_known = 0
        for number, path in self.paths.items():
            new = path[path >= num_known]
            num_shared = len(path) - len(new)
            sees[new[:, None], path] = np.tri(len(new), len(path), num_shared, dtype=bool)
            positions[new] = np.arange(num_shared, len(path))
            is_wanted[self._wanted(number)] = True
            num_known += len(new)
        order = np.argsort(is_wanted, kind="stable")
        place_of = np.argsort(order)
        num_wanted = int(is_wanted.sum())
        first_wanted = self.num_nodes - num_wanted
        places = {number: place_of[self._wanted(number)] - first_wanted for number in self.paths}
        tokens = np.concatenate(self.tokens)[order]
        return TreeRow(tokens, positions[order], sees[np.ix_(order, order)], num_wanted, places)

    def _wanted(self, number: int) -> Tokens:
        return self.paths[number][-self.targets[number] :]


def plant(sequences: Sequence[ScoredSequence], token_cost: float) -> list[Tree]:
    """Returns the sequences as trees, the one with the most nodes first.

    A sequence joins the tree of the one before it, in lexicographic order, where the tokens that it
    shares save more than the wider mask costs.

    Args:
        sequences: in any order; trees name them by their place in it.
        token_cost: a token's share of a layer beside attention, in units of one token seen by another.
    """
    # Bytes of big-endian numbers are in the numbers' own order, at a tenth of a list's memory.
    order = sorted(range(len(sequences)), key=lambda number: sequences[number].inputs.astype(">u4").tobytes())
    trees: list[Tree] = []
    for number in order:
        inputs = sequences[number].inputs
        if not trees or not _pays(trees[-1], inputs, token_cost):
            trees.append(Tree())
        trees[-1].add(number, sequences[number])
    return sorted(trees, key=len, reverse=True)


def batches(trees: Sequence[Tree], max_batch_tokens: int) -> Iterator[list[Tree]]:
    """Yields trees in batches of at most so many tokens, padding included; a larger one by itself.

    Those without branches come by themselves: they need no mask.

    Args:
        trees: the largest first.
        max_batch_tokens: trees of a batch times its largest.
    """
    for has_branches in (True, False):
        alike = [tree for tree in trees if tree.has_branches == has_branches]
        start = 0
        while start < len(alike):
            num_trees = max(1, max_batch_tokens // len(alike[start]))
            yield alike[start : start + num_trees]
            start += num_trees


def _pays(tree: Tree, inputs: Tokens, token_cost: float) -> bool:
    """Returns whether a sequence costs less in a tree than beside it: a mask spans all pairs of nodes."""
    num_shared = tree.num_shared(inputs)
    joined = len(tree) + len(inputs) - num_shared
    added_pairs = joined**2 - len(tree) ** 2 - len(inputs) ** 2
    return num_shared * token_cost > added_pairs
