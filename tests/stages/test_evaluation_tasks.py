"""Tasks that can't be evaluated are refused when a run is opened, not after its training."""

import json

import pytest

from turbosparse.config import Placement
from turbosparse.errors import DataError
from turbosparse.stages import open_run


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["piqa:many"], "TASK:SHOTS"),
        (["piqa", "arc_easy"], r"data, arc_easy.*arc_easy\.jsonl"),
        (["piqa:9"], r"examples, piqa.*ask for fewer: piqa:2"),
    ],
)
def test_a_task_that_can_not_be_run_stops_a_run_before_anything_is_written(tmp_path, tasks, message):
    (data := tmp_path / "data").mkdir()
    row = {"goal": "to sleep", "sol1": "lie down on a bed", "sol2": "run around the house", "label": 0}
    (data / "piqa_val.jsonl").write_text(3 * (json.dumps(row) + "\n"), encoding="utf-8")
    place = Placement(root=str(tmp_path / "root"), evaluation_data=str(data))
    with pytest.raises(DataError, match=message):
        open_run("tiny", {"evaluate": {"tasks": tasks}}, False, place)
    assert not (tmp_path / "root").exists()
