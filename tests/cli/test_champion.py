"""`champion` and `store gc`: what people do to a root, and what they are kept from."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from turbosparse.artifacts import ArtifactSpec, Store, Workspace
from turbosparse.cli import app
from turbosparse.errors import ArtifactError, ConfigError
from turbosparse.promotion import Champions, RetrainingUnderWay
from turbosparse.promotion.lease import take_lease


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


def run(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    return json.loads(result.stdout.splitlines()[-1])


def make(root: Path, kind: str, label: str, component: str = "", **parents: ArtifactSpec) -> ArtifactSpec:
    def build(workspace: Workspace) -> dict:
        workspace.components.extend([component] if component else [])
        (workspace.folder / "file").write_text(label)
        return {}

    spec = ArtifactSpec(kind, 1, {"label": label}, parents)
    Store(str(root)).produce(spec, build)
    return spec


def exported(root: Path, label: str) -> str:
    """Makes a model and all that it was made from; returns its name."""
    tokens = make(root, "tokens", label, tokenizer=make(root, "tokenizer", "all"))
    corpus = make(root, "prepare", label, component=tokens.name)
    recovered = make(root, "pretrain", label, corpus=corpus)
    instructions = make(root, "instructions", label)
    tuned = make(root, "finetune", label, model=recovered, instructions=instructions)
    return make(root, "export", label, model=tuned).name


def test_a_named_champion_is_shown_and_can_be_rolled_back(root):
    old, new = exported(root, "old"), exported(root, "new")
    assert run("champion", "show", "--root", str(root))["champion"] is None
    for name in (old, new):
        run("champion", "promote", f"{root}/{name}", "--root", str(root))
    shown = run("champion", "show", "--root", str(root))
    assert shown["champion"]["champion"] == new
    assert [promotion["how"] for promotion in shown["history"]] == ["named", "named"]
    assert run("champion", "rollback", "--root", str(root))["champion"]["champion"] == old
    shown = run("champion", "show", "--root", str(root))
    assert shown["champion"]["number"] == 1
    assert [promotion["back_to"] for promotion in shown["history"]] == [None, None, 1]


def test_what_no_pipeline_exported_is_refused(root):
    exported(root, "old")
    lonely = make(root, "export", "lonely").name
    with pytest.raises(ArtifactError, match="made from a finetune artifact"):
        run("champion", "promote", f"{root}/{lonely}", "--root", str(root))
    assert Champions(str(root)).history() == []


def test_garbage_is_neither_young_nor_kept_nor_a_champions(root):
    labels = ("past", "present", "kept", "useless")
    past, present, other, useless = (exported(root, label) for label in labels)
    for name in (past, present):
        run("champion", "promote", f"{root}/{name}", "--root", str(root))
    words = ("store", "gc", "--root", str(root), "--keep", f"{root}/{other}", "--older-than-days")
    assert run(*words, "1")["removed"] == []
    planned = run(*words, "0", "--dry-run")
    assert useless in planned["removed"]
    assert planned["num_bytes"] == 6 * len("useless")
    assert len(Store(str(root)).manifests()) == 4 * 6 + 1
    assert run(*words, "0")["removed"] == planned["removed"]
    left = {manifest.name for manifest in Store(str(root)).manifests()}
    assert {past, present, other} <= left
    assert len(left) == 3 * 6 + 1
    run("champion", "rollback", "--root", str(root))
    assert run(*words, "0")["removed"][0] == present, "nothing leads back to it any longer"


def test_nothing_is_collected_while_a_retraining_runs(root):
    exported(root, "old")
    lease = take_lease(str(root), "a flow run", 3_600)
    with pytest.raises(RetrainingUnderWay, match="a flow run"):
        run("store", "gc", "--root", str(root), "--older-than-days", "0")
    lease.release()
    assert run("store", "gc", "--root", str(root), "--older-than-days", "0")["removed"]


def test_the_list_says_which_the_champions_are(root):
    old, new = exported(root, "old"), exported(root, "new")
    for name in (old, new):
        run("champion", "promote", f"{root}/{name}", "--root", str(root))
    marks = {row["name"]: row["champion"] for row in run("store", "ls", "--root", str(root))["artifacts"]}
    assert (marks.pop(old), marks.pop(new)) == ("was champion 1", "champion 2")
    assert set(marks.values()) == {None}


def test_new_data_can_be_announced_to_a_server_only(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(ConfigError, match="PREFECT_API_URL"):
        CliRunner().invoke(app, ["announce-data", "s3://bucket/corpora"], catch_exceptions=False)
