"""Processes that share the work have the result that one has."""

import json
import os
from pathlib import Path

import pytest

from turbosparse.evaluation.folder import evaluate_folder
from turbosparse.evaluation.ranks import Ranks, start_ranks
from turbosparse.evaluation.records import read_result

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


def test_every_piece_of_work_is_some_ranks_and_the_longest_are_dealt_out():
    work = list(range(7))
    shares = [Ranks(rank, 3).share(work) for rank in range(3)]
    assert sorted(piece for share in shares for piece in share) == work
    assert [share[0] for share in shares] == [0, 1, 2]


@pytest.mark.slow
def test_two_ranks_have_the_result_of_one(stories260k, tmp_path, capfd):
    if not EVAL.is_dir():
        pytest.skip("shared test data absent")
    tasks = "arc_easy:2,wikitext,gsm8k:1"
    where = [str(stories260k), "--data", str(EVAL), "--limit", "3", "--out", str(tmp_path), "--json"]
    assert start_ranks(["evaluate", *where, "--tasks", tasks], 2) == 0
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 1, "only the first rank reports"
    together, alone = read_result(tmp_path), evaluate_folder(stories260k, tasks.split(","), EVAL, 3)
    assert json.loads(printed[0])["results"] == together.results
    assert together.num_items == alone.num_items
    for one, other in zip(together.records, alone.records, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4, rel=1e-6)
        assert one.responses == other.responses
        assert one.metrics == other.metrics


@pytest.mark.long
def test_a_refused_task_is_one_error_and_status_2(stories260k, tmp_path, capfd):
    command = ["evaluate", str(stories260k), "--tasks", "arc_easy", "--data", str(tmp_path)]
    assert start_ranks(command, 2) == 2
    assert capfd.readouterr().err.count("arc_easy.jsonl") == 1
    assert "WORLD_SIZE" not in os.environ
