"""The gate: each bound alone refuses, and says so."""

import re

import pytest

from turbosparse.config import GateConfig, validate
from turbosparse.errors import ConfigError
from turbosparse.evaluation.compare import Difference
from turbosparse.promotion.gate import Measured, judge

GATE = GateConfig(max_perplexity=50.0, max_perplexity_ratio=1.05, max_active_ratio=0.5)
CHAMPION = Measured({"local_text": {"word_perplexity": 40.0}}, active_ratio=0.30)


def measured(perplexity: float = 40.0, active_ratio: float = 0.30) -> Measured:
    return Measured({"local_text": {"word_perplexity": perplexity}}, active_ratio)


def difference(p_worse: float, task: str = "local_cloze", metric: str = "acc") -> Difference:
    """A task on which the candidate has lost, how surely the caller says."""
    return Difference(
        evaluation="candidate",
        task=task,
        metric=metric,
        num_items=50,
        baseline_value=0.5,
        value=0.3,
        interval=(-0.4, 0.0),
        is_better=False,
        test="McNemar, exact",
        p_value=min(2 * p_worse, 1.0),
        p_worse=p_worse / 2,
        corrected_p_value=min(4 * p_worse, 1.0),
        corrected_p_worse=p_worse,
    )


def test_a_candidate_as_good_as_the_champion_holds():
    verdict = judge(GATE, measured(), CHAMPION, [difference(0.5)])
    assert verdict.holds
    assert verdict.reasons == []
    assert len(verdict.checks) == 6, "all bounds were looked at"


@pytest.mark.parametrize(
    ("candidate", "losses", "reason"),
    [
        (measured(perplexity=51.0), [], "word_perplexity is 51, must be at most 50"),
        (measured(perplexity=43.0), [], "over the champion's is 1.075, must be at most 1.05"),
        (measured(active_ratio=0.31 + 0.02), [], "less the champion's is 0.03, must be at most 0.02"),
        (measured(active_ratio=0.001), [], "active ratio is 0.001, must be at least 0.005"),
        (measured(), [difference(0.5), difference(0.01)], "local_cloze.acc being no worse .0.3 against"),
    ],
)
def test_each_bound_refuses_and_says_why(candidate, losses, reason):
    verdict = judge(GATE, candidate, CHAMPION, losses)
    assert not verdict.holds
    assert re.search(reason, "; ".join(verdict.reasons)), verdict.reasons


def test_without_a_champion_the_absolute_bounds_decide():
    assert judge(GATE, measured(perplexity=49.0, active_ratio=0.45), None, []).holds
    assert not judge(GATE, measured(perplexity=51.0), None, []).holds
    assert not judge(GATE, measured(active_ratio=0.55), None, []).holds


def test_a_better_candidate_is_never_refused_for_being_different():
    assert judge(GATE, measured(perplexity=10.0, active_ratio=0.1), CHAMPION, [difference(1.0)]).holds


def test_a_perplexity_that_was_not_measured_is_an_error_that_names_what_was():
    gate = GateConfig(perplexity="wikitext.word_perplexity")
    with pytest.raises(ConfigError, match=r"local_text\.word_perplexity"):
        judge(gate, measured(), CHAMPION, [])


def test_bounds_that_leave_no_room_are_refused():
    with pytest.raises(ConfigError, match="min_active_ratio"):
        validate(GateConfig, {"min_active_ratio": 0.5, "max_active_ratio": 0.4}, source="a test")


def test_the_perplexity_that_has_a_bound_of_its_own_may_rise_within_it():
    rises = difference(0.001, "local_text", "word_perplexity")
    assert judge(GATE, measured(perplexity=41.0), CHAMPION, [rises]).holds
    assert not judge(GATE, measured(), CHAMPION, [difference(0.001, "wikitext", "word_perplexity")]).holds
