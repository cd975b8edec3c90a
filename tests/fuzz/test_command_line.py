"""Words on the command line: status 0, or 2 and a message; never a traceback, never something half-made."""

import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import ODD_TEXTS, fuzzed, success_or_refusal

from turbosparse.cli import main

FIELDS = st.sampled_from(
    ["pretrain.num_steps", "pretrain.learning_rate", "data.mixture", "data.num_tokens", "data.nothing"]
) | st.sampled_from(["model", "a..b", "finetune.predictor.rank", "evaluate.tasks", "convert.source", ""])
VALUES = st.text(max_size=6) | st.sampled_from(
    ["[", "{a: ", "0", "-1", "1e99", ".nan", "null", "2020-99-99", "!!python/name:os.system", "[1, 2]"]
)
TEXTS = st.text(max_size=8) | st.sampled_from([text for text in ODD_TEXTS if "\0" not in text])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("command-line") / "runs"


def status_of(words: list[str], capsys) -> int:
    """Runs a command here; returns its exit status, having looked at what it said."""
    with pytest.MonkeyPatch.context() as patch, success_or_refusal():
        patch.setattr(sys, "argv", ["turbosparse", *words])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
    status = ended.value.code or 0
    said = capsys.readouterr().err
    assert status in (0, 2), (words, said)
    assert "Traceback" not in said
    assert status == 0 or said.strip(), f"{words}: refused without a word"
    return status


def usable(words: list[str]) -> bool:
    """Whether a shell could pass the words."""
    return not any("\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word) for word in words)


@fuzzed(st.lists(st.tuples(FIELDS, VALUES), min_size=1, max_size=3), share=0.4)
def test_a_stage_with_other_settings(root, capsys, settings):
    """Its parents are not there: whatever is set, nothing runs."""
    words = ["run", "evaluate", "--preset", "tiny", "--root", str(root)]
    words += [word for field, value in settings for word in ("--set", f"{field}={value}")]
    if usable(words):
        assert status_of(words, capsys) == 2
    assert not list(root.glob("*/*")), "something was made"


@fuzzed(st.tuples(st.sampled_from(["show", "verify"]), TEXTS | TEXTS.map("a/{}/b".format)), share=0.4)
def test_an_artifact_that_nobody_made(root, capsys, words):
    command, uri = words
    if usable([uri]):
        assert status_of([command, "--", f"{root}/{uri}"], capsys) == 2


@pytest.mark.parametrize(
    "option", ["--source", "--corpora", "--tokenizer", "--instructions", "--config", "--placement"]
)
@pytest.mark.parametrize("text", [text for text in ODD_TEXTS if usable([text])])
def test_a_place_that_holds_nothing(option, text, root, capsys):
    words = ["run", "convert", "--preset", "tiny", "--root", str(root), option, text]
    if text or option not in ("--source", "--corpora", "--tokenizer", "--instructions"):
        assert status_of(words, capsys) == 2
    assert not list(root.glob("*/*")), "something was made"


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "nothing"],
        ["run", "prepare", "--preset", "nothing"],
        ["run", "prepare", "--num-ranks", "0"],
        ["run", "prepare", "--num-ranks", "many"],
        ["run", "prepare", "--workers", "elves"],
        ["run", "prepare", "--place", "training.compile=perhaps"],
        ["plan", "--preset", "tiny", "--nodes", "0"],
        ["generate", "/nowhere", "--prompt", "x"],
        ["sparsity", "/nowhere", "--text", "/nowhere"],
        ["evaluate", "/nowhere", "--tasks", "piqa"],
        ["export", "/nowhere", "/nowhere/else", "--format", "hf"],
        ["convert", "/nowhere", "/nowhere/else"],
        ["predictors", "/nowhere", "/nowhere/else"],
        ["reproduce", "recovery", "--model", "/nowhere", "--text", "/nowhere"],
    ],
    ids=" ".join,
)
def test_a_request_that_makes_no_sense(words, capsys):
    assert status_of(words, capsys) == 2
