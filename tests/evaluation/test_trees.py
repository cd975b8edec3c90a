"""Prefix trees hold every sequence once, and let each node see its own sequence alone."""

import numpy as np
import pytest

from turbosparse.evaluation.trees import ScoredSequence, batches, plant

ALWAYS_JOIN, NEVER_JOIN = 1e9, -1e9


def sequences():
    """Two questions with three choices each, examples before them shared by both, and a stranger."""
    draw = np.random.default_rng(0)
    examples, first, second = (draw.integers(3, 50, size).tolist() for size in (20, 7, 9))
    choices = [[4], [5, 6], [5, 7, 8, 9]]
    asked = [
        ScoredSequence.of(examples + question, choice, 100)
        for question in (first, second)
        for choice in choices
    ]
    return [*asked, ScoredSequence.of([1, 2], [2, 2, 2], 100)]


def path_of(row, number, target):
    """The tokens that a wanted node sees, in the order of their positions."""
    node = len(row.tokens) - row.num_wanted + row.places[number][target]
    seen = np.arange(node + 1) if row.sees is None else np.flatnonzero(row.sees[node])
    return row.tokens[seen][np.argsort(row.positions[seen])].tolist(), sorted(row.positions[seen].tolist())


@pytest.mark.parametrize("token_cost", [ALWAYS_JOIN, 60.0, NEVER_JOIN])
def test_each_target_is_predicted_from_exactly_what_stands_before_it(token_cost):
    wanted = sequences()
    found = set()
    for row in (tree.row() for tree in plant(wanted, token_cost)):
        for number in row.places:
            found.add(number)
            inputs, num_targets = wanted[number].inputs.tolist(), len(wanted[number].targets)
            for target in range(num_targets):
                end = len(inputs) - num_targets + target + 1
                assert path_of(row, number, target) == (inputs[:end], list(range(end)))
    assert found == set(range(len(wanted)))


def test_what_sequences_share_is_there_once():
    wanted = sequences()
    prefixes = {tuple(one.inputs[:end].tolist()) for one in wanted for end in range(1, len(one.inputs) + 1)}
    together, apart = plant(wanted, ALWAYS_JOIN), plant(wanted, NEVER_JOIN)
    assert sum(map(len, together)) == len(prefixes)
    assert sum(map(len, apart)) == sum(len(one.inputs) for one in wanted)
    assert len(apart) == len(wanted)


def test_a_tree_grows_only_while_sharing_pays():
    draw = np.random.default_rng(1)
    strangers = [ScoredSequence.of([1, *draw.integers(3, 999, 40).tolist()], [2], 100) for _ in range(8)]
    assert len(plant(strangers, token_cost=100.0)) == 8, "only beginning of text is shared"


def test_a_context_is_cut_from_the_left_as_the_harness_cuts_it():
    cut = ScoredSequence.of(list(range(10)), [20, 21], 5)
    assert cut.inputs.tolist() == [6, 7, 8, 9, 20]
    assert cut.targets.tolist() == [20, 21]


def test_batches_keep_trees_together_up_to_a_number_of_tokens():
    trees = plant(sequences(), NEVER_JOIN)
    parts = list(batches(trees, 64))
    assert [id(tree) for part in parts for tree in part] == list(map(id, trees))
    assert all(len(part) == 1 or len(part) * len(part[0]) <= 64 for part in parts)
    assert [len(part) for part in batches(trees, 1)] == [1] * len(trees)
