"""Instruction rows read alike in every form and from every place; what gives none is counted."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_hub_corpora import hub_server  # noqa: F401 - a fixture

from turbosparse.config import PRESET_NAMES, Placement, resolve
from turbosparse.data import hub_corpora, local_instructions
from turbosparse.data.conversations import COLUMNS, Conversation, Turn
from turbosparse.data.instruction_rows import LOCAL_SET, open_instructions_rows
from turbosparse.data.sources import SFT_SETS
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import DataError
from turbosparse.progress import Listener
from turbosparse.stages import instructions as stage
from turbosparse.stages import open_run
from turbosparse.stages.specs import Specs

LIMIT = 1_000_000
ROWS = [
    {"question": "1 + 1?", "answer": "2"},
    {"conversations": [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue"}]},
    {"messages": [{"role": "user", "content": "Sea?"}, {"role": "assistant", "content": "Deep"}]},
    {"messages": [{"role": "user", "content": "Sea?"}]},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
READ = [
    Conversation((Turn("user", asked), Turn("assistant", answer)))
    for asked, answer in (("1 + 1?", "2"), ("Sky?", "Blue"), ("Sea?", "Deep"))
]


def write(path: Path) -> None:
    """Writes `ROWS` in the form that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(COLUMNS) | row for row in ROWS]), path)
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(LINES)
    else:
        path.write_bytes(gzip.compress(LINES) if path.suffix == ".gz" else LINES)


def read(place: str) -> tuple[list[Conversation], Counter[str], Counter[str]]:
    rejected: Counter[str] = Counter()
    num_rows: Counter[str] = Counter()
    rows = open_instructions_rows("folder", place)
    return list(rows.conversations(rejected, LIMIT, num_rows)), rejected, num_rows


FORMS = ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.txt"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_conversations(name, tmp_path):
    write(tmp_path / name)
    expected = (READ, {"no assistant turn": 1}, {name: 3})
    assert read(str(tmp_path / name)) == expected
    assert read((tmp_path / name).as_uri()) == expected


def test_rows_of_an_object_store_are_listed_read_and_told_apart_by_its_checksums():
    store = fsspec.filesystem("memory")
    uri = "memory://instruction-rows"
    try:
        store.pipe(
            {f"{uri}/b.jsonl.gz": gzip.compress(LINES), f"{uri}/a.jsonl": LINES, f"{uri}/notes.md": b"x"}
        )
        assert read(uri) == (READ * 2, {"no assistant turn": 2}, {"a.jsonl": 3, "b.jsonl.gz": 3})
        assert read(f"{uri}/a.jsonl")[0] == READ
        before = open_instructions_rows("folder", uri).digest()
        assert open_instructions_rows("folder", uri).digest() == before
        store.pipe(f"{uri}/a.jsonl", LINES + LINES)
        assert open_instructions_rows("folder", uri).digest() != before
    finally:
        store.rm(uri, recursive=True)


def test_what_can_not_be_read_is_counted_and_the_rest_is_read(tmp_path):
    long = json.dumps({"question": "1 + 1?" * LIMIT, "answer": "2"}).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xff\n{\n" + long + b"\n" + LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES)[:-8])
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    (tmp_path / "d.jsonl").write_bytes(b"\n")
    conversations, rejected, num_rows = read(str(tmp_path))
    assert conversations == READ * 2
    assert num_rows == {"a.jsonl": 3, "b.jsonl.gz": 3}
    of_files = {"truncated file": 2, "empty file": 1}
    assert rejected == of_files | {"not UTF-8": 1, "not JSON": 1, "too long": 1, "no assistant turn": 2}


def test_digest_follows_contents_and_forms_and_not_names(tmp_path):
    for folder, rows in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.jsonl").write_text(rows)
    (tmp_path / "x.parquet").write_text("x")

    def digest(name: str) -> str:
        return open_instructions_rows("folder", str(tmp_path / name)).digest()

    assert digest("a") == digest("b") == digest("a/a.jsonl")
    assert len({digest("a"), digest("c"), digest("x.parquet")}) == 3


@pytest.mark.parametrize("place", [None, "nowhere", "."])
def test_a_place_without_rows_is_refused(place, tmp_path):
    with pytest.raises(DataError, match=r"instructions: .*Expected: a file"):
        open_instructions_rows("folder", str(tmp_path) if place == "." else place)


def test_a_folder_is_listed_once(tmp_path):
    write(tmp_path / "a.jsonl")
    rows = open_instructions_rows("folder", str(tmp_path))
    write(tmp_path / "b.jsonl")
    assert list(rows.conversations(Counter(), LIMIT)) == READ


def test_local_rows_are_counted_and_called_a_stand_in(monkeypatch):
    monkeypatch.setattr(local_instructions, "PACKAGES", ())
    monkeypatch.setattr(local_instructions, "STANDARD_LIBRARY_QUOTA", 30)
    rows = open_instructions_rows("local", None)
    num_rows: Counter[str] = Counter()
    assert len(list(rows.conversations(Counter(), LIMIT, num_rows))) == num_rows[LOCAL_SET] > 20
    assert "not the paper's" in rows.describe()[LOCAL_SET]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's answers, which a test may change; a file of one row for each set."""
    pq.write_table(pa.table({"question": ["1 + 1?"], "answer": ["2"]}), tmp_path / "problems.parquet")
    pq.write_table(pa.Table.from_pylist([ROWS[1]]), tmp_path / "bagel.parquet")
    orca = SFT_SETS["orca-math-word-problems"].hub
    answers = SimpleNamespace(commit="a", orca=["problems.parquet"], bagel=["bagel.parquet"])

    def listed(hub, commit):
        return [str(tmp_path / name) for name in (answers.orca if hub == orca else answers.bagel)]

    monkeypatch.setattr(hub_corpora, "_look_up_commit", lambda hub: answers.commit)
    monkeypatch.setattr(hub_corpora, "_list_uris", listed)
    return answers


def test_hub_digest_follows_commits_and_files(hub):
    opened = open_instructions_rows("hub", None)
    digests = [opened.digest()]
    hub.commit = "b"
    assert opened.digest() == digests[0], "a commit is looked up once"
    digests.append(open_instructions_rows("hub", None).digest())
    hub.bagel = ["bagel.parquet", "more.parquet"]
    digests.append(open_instructions_rows("hub", None).digest())
    assert len(set(digests)) == 3


def test_a_set_of_the_hub_without_usable_rows_is_an_error_that_names_it(hub):
    hub.bagel = ["problems.parquet"]
    rejected = Counter({"unknown form": 5})
    with pytest.raises(DataError, match=r"bagel-v0\.5 at a.*rejected: {'unknown form': 1}"):
        list(open_instructions_rows("hub", None).conversations(rejected, LIMIT))


def test_an_unreachable_hub_says_what_else_to_read(monkeypatch):
    def unreachable(hub):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub_corpora, "_look_up_commit", unreachable)
    with pytest.raises(DataError, match=r"orca-math.*finetune\.instructions=local or folder"):
        open_instructions_rows("hub", None).digest()


def test_the_hubs_licences_are_named():
    described = open_instructions_rows("hub", None).describe()
    assert described.keys() == SFT_SETS.keys()
    assert "CC-BY-NC" in described["bagel"]


def test_the_hubs_sets_are_read_over_its_protocol(request, tmp_path):
    address = request.getfixturevalue("hub_server")
    owner = tmp_path / "hub" / "owner"
    (owner / "problems" / "data").mkdir(parents=True)
    (owner / "bagel").mkdir()
    for number in range(2):
        table = pa.table({"question": [f"{number} + 1?"], "answer": [f"{number + 1}"]})
        pq.write_table(table, owner / f"problems/data/train-{number}.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"id": "a", **ROWS[1]}, {"id": "b"}]), owner / "bagel/bagel-clean-v0.5.parquet"
    )
    script = """
import json
from collections import Counter
from dataclasses import replace
from turbosparse.data.instruction_rows import open_instructions_rows
from turbosparse.data.sources import SFT_SETS

for name, dataset in (("orca-math-word-problems", "owner/problems"), ("bagel", "owner/bagel")):
    one = SFT_SETS[name]
    SFT_SETS[name] = replace(one, hub=replace(one.hub, dataset=dataset))
rejected, num_rows = Counter(), Counter()
rows = open_instructions_rows("hub", None)
read = [one.turns[0].content for one in rows.conversations(rejected, 1000, num_rows)]
print(json.dumps([sorted(read[:2]), read[2:], rejected, num_rows]))
"""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [
        ["0 + 1?", "1 + 1?"],
        ["Sky?"],
        {"unknown form": 1},
        {"orca-math-word-problems": 2, "bagel": 1},
    ]


def test_only_small_presets_and_dry_runs_use_the_stand_in():
    kinds = {preset: resolve(preset).finetune.instructions for preset in PRESET_NAMES}
    assert {preset for preset, kind in kinds.items() if kind != "hub"} == {"tiny", "tiny-moe"}
    assert resolve("300m", dry_run=True).finetune.instructions == kinds["tiny"] == "local"


def test_given_rows_decide_the_identity_of_the_conversations(tmp_path):
    write(tmp_path / "a.jsonl")
    runs = [open_run("tiny", None, True, Placement(root=str(tmp_path / "root")))]
    identities = {Specs(runs[0]).instructions.identity}
    place = Placement(root=str(tmp_path / "root"), instructions=str(tmp_path / "a.jsonl"))
    runs.append(open_run("tiny", None, True, place))
    assert [run.config.finetune.instructions for run in runs] == ["local", "folder"]
    identities.add(Specs(runs[1]).instructions.identity)
    (tmp_path / "a.jsonl").write_bytes(LINES[:-2])
    runs.append(open_run("tiny", None, True, place))
    identities.add(Specs(runs[2]).instructions.identity)
    assert len(identities) == 3
    assert len({Specs(run).prepare.identity for run in runs}) == 1


def test_the_stage_reports_rows_by_set_and_rejected_ones_by_reason(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    for name in ("a.jsonl", "b.parquet"):
        write(tmp_path / "rows" / name)
    train_tokenizer(["the sky is blue, the sea is deep\n"] * 20, 300).save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setattr(stage, "require", lambda *_: SimpleNamespace(folder=lambda: tmp_path))
    monkeypatch.setattr(stage, "NUM_HELD_BACK_CONVERSATIONS", 1)
    place = Placement(root=str(tmp_path / "root"), instructions=str(tmp_path / "rows"))
    run = open_run("tiny", None, True, place)
    metrics = stage.build(run, SimpleNamespace(folder=tmp_path / "built"), Listener())
    assert metrics["num_rows"] == {"a.jsonl": 3, "b.parquet": 3}
    assert metrics["rejected"] == {"duplicate": 3, "no assistant turn": 2}
    assert metrics["stands_behind"].keys() == {"a.jsonl", "b.parquet"}
    assert metrics["num_conversations"] == 2
