"""The command line as its users meet it: exit statuses, messages, JSON on the last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from turbosparse.artifacts import ArtifactSpec, Store, Workspace

TURBOSPARSE = str(Path(sys.executable).with_name("turbosparse"))


def turbosparse(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TURBOSPARSE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dry-run", "--preset", "huge"], ["preset", "'huge'", "tiny-moe"]),
        (["dry-run", "--preset", "tiny", "--set", "pretrain.steps=3"], ["pretrain.steps", "num_steps"]),
        (["dry-run", "--preset", "tiny", "--set", "pretrain.num_steps"], ["--set", "a.b=c"]),
        (["dry-run", "--preset", "tiny", "--set", "data.mixture={wanjuan-cc: 60}"], ["sum to 60", "100"]),
        (["dry-run", "--preset", "tiny", "--set", "data.mixture={nothing: 100}"], ["nothing", "wanjuan-cc"]),
        (["dry-run", "--preset", "tiny", "--root", "/dev/null/runs"], ["root", "written"]),
        (["dry-run", "--preset", "tiny", "--corpora", "."], ["corpora", "jsonl"]),
        (["dry-run", "--preset", "tiny", "--source", "."], ["model folder", "config.json"]),
        (["dry-run", "--preset", "tiny", "--config", "nothing.yaml"], ["--config", "nothing.yaml"]),
        (["run", "everything"], ["everything"]),
        (["show", "runs/prepare/0123456789abcdef"], ["uri", "store ls"]),
        (["verify", "nothing"], ["uri"]),
    ],
)
def test_bad_input_is_explained_with_status_2_and_nothing_written(arguments, words, tmp_path):
    ended = turbosparse(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert all(word in ended.stderr for word in words), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_stage_without_its_parents_names_the_command_before_prefect_starts(tmp_path):
    ended = turbosparse("run", "finetune", "--preset", "tiny", cwd=tmp_path)
    assert ended.returncode == 2
    assert "turbosparse run prepare --preset tiny" in ended.stderr
    assert not list((tmp_path / "runs").iterdir())


def test_help_and_validation_import_neither_torch_nor_prefect():
    code = "import sys, turbosparse.cli; print({'torch', 'transformers', 'prefect'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"


@pytest.fixture
def artifact(tmp_path):
    def build(workspace: Workspace) -> dict:
        (workspace.folder / "tokens.mds").write_bytes(b"12345")
        return {"num_tokens": 5}

    store = Store(str(tmp_path / "runs"))
    corpus = ArtifactSpec("prepare", 1, {"num_tokens": 5}, inputs={"corpora": "a" * 64})
    store.produce(corpus, build)
    return store.produce(ArtifactSpec("pretrain", 1, {}, parents={"corpus": corpus}), build)


def test_show_prints_the_lineage(artifact, tmp_path):
    ended = turbosparse("show", artifact.uri, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert [(entry["depth"], entry["role"]) for entry in report["lineage"]] == [(0, ""), (1, "corpus")]
    assert "corpora: aaaa" in ended.stdout


def test_verify_names_a_flipped_byte(artifact, tmp_path):
    assert turbosparse("verify", artifact.uri, cwd=tmp_path).returncode == 0
    (artifact.folder() / "tokens.mds").write_bytes(b"12344")
    ended = turbosparse("verify", artifact.uri, cwd=tmp_path)
    assert ended.returncode == 2
    assert "tokens.mds" in ended.stderr
    assert "sha256" in ended.stderr


def test_store_lists_what_is_committed_and_collects_what_is_not(artifact, tmp_path):
    leftover = tmp_path / "runs" / "export" / "0123456789abcdef" / "attempt-gone-1-ab"
    leftover.mkdir(parents=True)
    listed = turbosparse("store", "ls", "--json", cwd=tmp_path)
    names = [entry["name"] for entry in json.loads(listed.stdout.splitlines()[-1])["artifacts"]]
    assert len(names) == 2
    assert artifact.manifest.name in names
    collected = turbosparse("store", "gc", "--json", cwd=tmp_path)
    assert json.loads(collected.stdout)["removed"] == ["export/0123456789abcdef/attempt-gone-1-ab"]
    assert not leftover.exists()
    assert (artifact.folder() / "tokens.mds").exists()
