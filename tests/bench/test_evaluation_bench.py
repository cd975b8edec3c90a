"""The benchmark of evaluation compares answers to the same requests, and times both ways."""

import json
from pathlib import Path

import pytest

from turbosparse.bench.evaluation import measure_evaluation

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


@pytest.mark.slow
def test_both_ways_answer_alike_and_the_fastest_of_theirs_counts(stories260k):
    if not EVAL.is_dir():
        pytest.skip("shared test data absent")
    report = measure_evaluation(str(stories260k), ["arc_easy:1", "wikitext"], EVAL, 1, num_rounds=1)
    json.dumps(report, allow_nan=False)
    for found in report["tasks"].values():
        seconds = found["seconds"]
        theirs = {name: value for name, value in seconds.items() if name != "turbosparse"}
        assert found["fastest_harness"] == min(theirs, key=theirs.get)
        assert found["ratio"] == pytest.approx(min(theirs.values()) / seconds["turbosparse"])
    assert report["tasks"]["arc_easy"]["num_requests"] == 4
    assert report["tasks"]["arc_easy"]["largest_difference"] < 1e-4
    wikitext = report["tasks"]["wikitext"]
    # Sums over a text of thousands of tokens.
    assert wikitext["largest_difference"] < 0.1
    ours = sum(found["seconds"]["turbosparse"] for found in report["tasks"].values())
    theirs = sum(found["seconds"][found["fastest_harness"]] for found in report["tasks"].values())
    assert report["ratio"] == pytest.approx(theirs / ours)
