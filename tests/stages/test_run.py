"""What decides an identity, what does not, and what is refused before anything is written."""

import json

import pytest

from turbosparse.config import Placement
from turbosparse.errors import ArtifactError, ConfigError, DataError, ModelError
from turbosparse.stages import make, open_run
from turbosparse.stages.specs import Specs


def identities(tmp_path, overrides=None, preset="tiny", **placement) -> dict[str, str]:
    run = open_run(preset, overrides, False, Placement(root=str(tmp_path / "root"), **placement))
    specs = Specs(run)
    stages = ("prepare", "base", "convert", "pretrain", "instructions", "finetune", "evaluate", "export")
    return {stage: getattr(specs, stage).identity for stage in stages}


def test_where_a_run_takes_place_does_not_matter(tmp_path):
    here = identities(tmp_path)
    there = identities(
        tmp_path / "elsewhere", num_ranks=2, device_batch_size_sequences=2, checkpoint_interval_steps=3
    )
    assert there == here


def test_a_change_reaches_its_stage_and_what_follows_only(tmp_path):
    plain = identities(tmp_path)
    changed = identities(tmp_path, {"pretrain": {"learning_rate": 1e-4}})
    different = {stage for stage in plain if plain[stage] != changed[stage]}
    assert different == {"pretrain", "finetune", "evaluate", "export"}


def test_new_data_is_a_new_run(tmp_path):
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (corpora / "web.jsonl").write_text(json.dumps({"text": "one text"}) + "\n")
    before = identities(tmp_path, corpora=str(corpora))
    (corpora / "web.jsonl").write_text(json.dumps({"text": "another text"}) + "\n")
    after = identities(tmp_path, corpora=str(corpora))
    assert all(before[stage] != after[stage] for stage in before)


def test_a_source_takes_the_place_of_the_base(tmp_path, stories260k):
    run = open_run("tiny", None, True, Placement(root=str(tmp_path), source=str(stories260k)))
    assert run.config.convert.source == "folder"
    assert "base" not in Specs(run).convert.parents
    assert "source" in Specs(run).convert.inputs
    assert "tokenizer" in Specs(run).prepare.inputs


def test_a_dry_run_fits_the_sources_context_and_says_so(tmp_path, stories260k):
    place = Placement(root=str(tmp_path), source=str(stories260k))
    overrides = {"data": {"sequence_length": 1024}, "model": {"context_length": 2048}}
    run = open_run("tiny", overrides, True, place)
    assert run.config.data.sequence_length == 512
    assert any("1024 → 512" in note for note in run.notes)
    with pytest.raises(ConfigError, match=r"data\.sequence_length=512"):
        open_run("tiny", overrides, False, place)


@pytest.mark.parametrize(
    ("placement", "error", "message"),
    [
        ({"num_ranks": 3}, ConfigError, "placement.num_ranks: 3.*divisor"),
        ({"device_batch_size_sequences": 5}, ConfigError, "device_batch_size_sequences: 5"),
        ({"source": "nowhere"}, ModelError, "model folder: .*nowhere"),
        ({"corpora": "nowhere"}, DataError, "corpora.*nowhere"),
        ({"tokenizer": "nowhere"}, DataError, "nowhere"),
        ({"instructions": "nowhere"}, DataError, "nowhere"),
        ({"root": "/dev/null/runs"}, ArtifactError, "root"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_written(placement, error, message, tmp_path):
    root = tmp_path / "root"
    with pytest.raises(error, match=message):
        open_run("tiny", None, True, Placement(**{"root": str(root), **placement}))
    assert not root.exists()


def test_a_source_is_asked_for_where_the_preset_needs_one(tmp_path):
    with pytest.raises(ConfigError, match="--source DIR"):
        open_run("mistral-7b", None, False, Placement(root=str(tmp_path / "root")))


def test_a_stage_without_its_parent_names_the_command_that_makes_it(tmp_path):
    run = open_run("tiny", None, True, Placement(root=str(tmp_path)))
    with pytest.raises(ArtifactError, match="turbosparse run convert --preset tiny --root"):
        make(run, "pretrain")


def test_a_jobset_that_could_not_read_this_machines_files_is_refused(tmp_path):
    jobset = {"namespace": "training", "image": "turbosparse"}
    place = {"root": str(tmp_path), "launcher": "jobset", "jobset": jobset}
    with pytest.raises(ConfigError, match=r"placement\.root: 'lies on this machine'.*jobset\.claims"):
        open_run("tiny", None, False, Placement(**place))
    shared = {**jobset, "claims": {"shared": str(tmp_path)}}
    open_run("tiny", None, False, Placement(**{**place, "jobset": shared}))
