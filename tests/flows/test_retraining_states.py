"""How a retraining ends: in a state that says what happened, with an error that travels."""

import pickle

import pytest

from tasks.retraining import rejected, skipped
from tasks.stage import StageResult
from turbosparse.errors import CandidateRejected
from turbosparse.promotion import RetrainingUnderWay
from turbosparse.promotion.lease import take_lease

REASONS = ["active ratio is 0.7, must be at most 0.6", "perplexity is 90, must be at most 50"]


def verdict() -> StageResult:
    return StageResult(
        stage="verdict",
        uri="s3://bucket/verdict/0123456789abcdef",
        seconds=0.1,
        reused=False,
        metrics={"holds": False, "reasons": REASONS},
        plots=[],
        reports=[],
    )


def test_a_rejected_run_has_failed_and_says_why():
    state = rejected(verdict())
    assert (state.name, state.is_failed()) == ("Rejected", True)
    assert all(reason in state.message for reason in REASONS)
    assert "s3://bucket/verdict/0123456789abcdef" in state.message
    with pytest.raises(CandidateRejected, match="active ratio is"):
        state.result()


def test_a_skipped_run_is_cancelled_and_says_who_runs(tmp_path):
    take_lease(str(tmp_path), "flow run 1", 60)
    with pytest.raises(RetrainingUnderWay) as raised:
        take_lease(str(tmp_path), "flow run 2", 60)
    state = skipped(raised.value)
    assert (state.name, state.is_cancelled()) == ("Skipped", True)
    assert "held by flow run 1 until" in state.message


def test_a_rejection_survives_being_pickled():
    error = CandidateRejected("verdict/0123456789abcdef", REASONS)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reasons) == (str(error), REASONS)
