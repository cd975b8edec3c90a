"""Tables 7 and 8: ours where it can be measured, the paper's beside, and a word where it can't."""

from dataclasses import replace

from turbosparse.bench.decode import DecodePlan
from turbosparse.bench.decode_shapes import Shape
from turbosparse.reproduce import table7, table8
from turbosparse.reproduce.common import Request, write_reproduction

SMALL = Shape(
    0.1, 32, 1, 4, hidden_size=128, intermediate_size=256, num_heads=4, num_kv_heads=2, vocab_size=64
)


def test_table_7_has_every_way_and_the_papers_rows(tmp_path):
    plan = DecodePlan(SMALL, replace(SMALL, num_experts=4), num_rounds=1, with_peer=False)
    result = table7.tabulate(Request(out=tmp_path), plan)
    ways = {(row[1], row[2], row[4]) for row in result.rows if row[0] == "here"}
    assert {
        ("mistral", "bf16", "predicted"),
        ("mixtral", "int4", "exact"),
        ("mistral", "bf16", "F.linear"),
    } <= ways
    assert len([row for row in result.rows if row[0].startswith("paper")]) == 8
    assert any("llama.cpp" in note for note in result.notes)
    files = write_reproduction(result, tmp_path)
    assert [path.name for path in files] == ["table7.json", "table7.md", "table7.png"]


def test_table_8_says_that_it_was_not_measured(tmp_path):
    result = table8.reproduce(Request(out=tmp_path))
    assert [row[2] for row in result.rows[:2]] == ["not measured"] * 2
    assert result.measured["hybrid"] is None and "PowerInfer" in result.measured["why"]
    assert all(abs(sparse / dense - ratio) < 0.02 for _, _, sparse, dense, ratio in table8.PAPER)
    write_reproduction(result, tmp_path)
