"""A retraining's run: what it takes from the champion, what it makes anew, when it has nothing to do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from turbosparse.artifacts import Store, Workspace
from turbosparse.artifacts.lineage import ancestor
from turbosparse.config import Placement
from turbosparse.errors import ArtifactError, ConfigError
from turbosparse.promotion import Champions
from turbosparse.promotion.branch import branch_from
from turbosparse.stages import (
    Run,
    branched,
    champion_run,
    nothing_to_learn,
    open_run,
    promote_candidate,
    stages_of,
)
from turbosparse.stages.specs import Specs

OVERRIDES = {
    "data": {"mixture": {"wanjuan-cc": 100.0}},
    "pretrain": {
        "num_steps": 200,
        "learning_rate": 1e-3,
        "activation_schedule": {"share_of_steps": 0.5},
        "sequence_warmup": {"length_tokens": 16},
    },
    "retrain": {"steps_ratio": 0.25, "learning_rate_ratio": 0.5, "warmup_ratio": 0.2},
}


@pytest.fixture
def open_(tmp_path):
    """Opens a run over a folder of text, which the caller names by its content."""

    def open_one(text: str, **overrides: Any) -> Run:
        corpora = tmp_path / "corpora"
        corpora.mkdir(exist_ok=True)
        (corpora / "web.jsonl").write_text(json.dumps({"text": text}) + "\n")
        place = Placement(root=str(tmp_path / "root"), corpora=str(corpora))
        return open_run("tiny", OVERRIDES | overrides, False, place)

    return open_one


def make_all(run: Run, holds: bool = True) -> None:
    """Puts artifacts of a run's stages into the store, one file each, in place of hours of training."""

    def build(workspace: Workspace) -> dict[str, Any]:
        (workspace.folder / "file").write_text("made")
        if kind == "prepare":
            workspace.components.append(_tokens(run.store))
        return {"holds": holds}

    for kind in stages_of(run, "retrain"):
        run.store.produce(getattr(Specs(run), kind), build)
    if run.branch is not None:
        kind = "evaluate"
        run.store.produce(Specs(champion_run(run)).evaluate, build)


def _tokens(store: Store) -> str:
    from turbosparse.artifacts import ArtifactSpec  # noqa: PLC0415

    def build(workspace: Workspace) -> dict[str, Any]:
        (workspace.folder / "file").write_text("made")
        return {}

    tokenizer = ArtifactSpec("tokenizer", 1, {})
    tokens = ArtifactSpec("tokens", 1, {}, {"tokenizer": tokenizer})
    store.produce(tokenizer, build)
    return store.produce(tokens, build).manifest.name


@pytest.fixture
def champion(open_) -> Run:
    """The run that made the root's first champion."""
    run = branched(open_("first text"))
    make_all(run)
    promote_candidate(run)
    return run


def test_the_first_run_of_a_root_is_an_ordinary_one(open_):
    run = open_("first text")
    assert branched(run) == run
    assert nothing_to_learn(run) is None
    assert "convert" in stages_of(run, "retrain")


def test_a_retraining_goes_on_from_the_recovered_model_not_the_tuned_one(champion, open_):
    run = branched(open_("second text"))
    before, after = Specs(champion), Specs(run)
    assert after.pretrain.parents == {"model": before.pretrain, "corpus": after.prepare}
    assert after.prepare.parents == {"known": before.prepare}
    assert after.finetune.parents["model"] == after.pretrain
    assert "convert" not in stages_of(run, "retrain")
    assert ancestor(after.export, "base") == before.base


def test_the_learning_rate_rises_again_over_fewer_steps(champion, open_):
    recipe = branched(open_("second text")).config.pretrain
    assert (recipe.num_steps, recipe.warmup_steps) == (50, 10)
    assert recipe.learning_rate == pytest.approx(5e-4)
    assert recipe.activation_schedule is None, "the model has its activation already"
    assert recipe.sequence_warmup is None, "it has learned to read far already"


def test_both_are_measured_on_what_the_champion_held_back(champion, open_):
    run = branched(open_("second text"))
    verdict = Specs(run).verdict
    assert {role: spec.parents["corpus"] for role, spec in verdict.parents.items()} == {
        "candidate": Specs(champion).prepare,
        "champion": Specs(champion).prepare,
    }
    assert verdict.parents["champion"] == Specs(champion).evaluate, "it was measured already"
    assert verdict.parents["candidate"].parents["model"] == Specs(run).finetune


def test_the_next_champion_brings_its_own_held_back_text(champion, open_):
    second = branched(open_("second text"))
    make_all(second)
    promote_candidate(second)
    third = branched(open_("third text"))
    assert Specs(third).pretrain.parents["model"] == Specs(second).pretrain
    assert Specs(third).evaluate.parents["corpus"] == Specs(second).prepare
    assert ancestor(Specs(third).pretrain, "convert") == Specs(champion).convert


def test_without_new_text_there_is_nothing_to_learn(champion, open_):
    again = branched(open_("first text"))
    assert "that export/" in nothing_to_learn(again)
    assert nothing_to_learn(branched(open_("second text"))) is None
    wanted = OVERRIDES["retrain"] | {"needs_new_data": False}
    assert nothing_to_learn(branched(open_("first text", retrain=wanted))) is None


def test_what_was_rolled_back_is_not_promoted_by_the_next_run(champion, open_):
    second = branched(open_("second text"))
    make_all(second)
    promote_candidate(second)
    Champions(second.store.root).roll_back()
    again = branched(open_("second text"))
    assert Specs(again).export == Specs(second).export
    assert "rolled back" in nothing_to_learn(again)
    assert nothing_to_learn(branched(open_("third text"))) is None


def test_a_candidate_that_was_refused_is_never_promoted(champion, open_):
    run = branched(open_("second text"))
    make_all(run, holds=False)
    with pytest.raises(AssertionError, match="refused"):
        promote_candidate(run)
    assert Champions(run.store.root).current().champion == Specs(champion).export.name


def test_a_promotion_that_came_in_between_is_not_overruled(champion, open_):
    run = branched(open_("second text"))
    make_all(run)
    Champions(run.store.root).promote(Specs(champion).export.name, "named", after=1)
    with pytest.raises(ArtifactError, match="taken"):
        promote_candidate(run)


def test_a_gate_that_would_find_nothing_to_judge_by_is_refused_at_once(open_):
    gate = {"gate": {"perplexity": "wikitext.word_perplexity"}}
    with pytest.raises(ConfigError, match="a task that is evaluated: local_cloze, local_text"):
        branched(open_("first text", retrain=gate))


def test_a_retraining_measures_its_own_candidate_only(open_):
    run = open_("first text")
    with pytest.raises(ConfigError, match="evaluated_model"):
        branched(replace(run, tuned=Specs(run).finetune))


def test_another_presets_champion_is_refused(champion):
    with pytest.raises(ConfigError, match="tiny, the champion's"):
        branched(replace(champion, preset="300m"))


def test_only_an_export_can_be_the_champion_and_a_damaged_one_is_named(champion):
    store = champion.store
    with pytest.raises(ArtifactError, match="an export artifact"):
        branch_from(store, Specs(champion).pretrain.name)
    attempt = store.load(Specs(champion).finetune.name).folder()
    (Path(attempt) / "file").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        branched(champion)
