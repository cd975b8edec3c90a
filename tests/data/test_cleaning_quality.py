"""Quality rules: each drops what it is there for, and a bound of none drops nothing."""

import pytest
from pydantic import ValidationError

from turbosparse.config.quality import QualityConfig
from turbosparse.data.cleaning.quality import quality_problem

ALL_OFF = dict.fromkeys(QualityConfig.model_fields)
PROSE = "\n".join(f"Sentence number {name} tells of the weather and of the sea." for name in "abcdefgh")


def lines(*counts: tuple[int, str]) -> str:
    """Returns this many lines of each form; `{}` becomes a word that is different in each."""
    return "\n".join(
        form.replace("{}", "n" + "x" * number) for count, form in counts for number in range(count)
    )


CASES = [
    ("min_words", 50, "a word " * 24 + "more", "a word " * 25, "fewer than 50 words"),
    ("max_words", 100, "a word " * 51, "a word " * 50, "more than 100 words"),
    ("min_mean_word_length", 3, "ab c", "abc", "words shorter than 3 characters on average"),
    ("max_mean_word_length", 10, "abcdefghijkl a2345678901", "abcdefghijkl a2345678", "words longer than 10"),
    ("max_symbol_ratio", 0.1, "word " * 9 + "## ", "word " * 9 + "#tag", "more than 0.1 # per word"),
    ("max_symbol_ratio", 0.1, "word " * 9 + "more... …", "word " * 9 + "more…", "more than 0.1 ellipses"),
    (
        "max_bullet_lines_ratio",
        0.9,
        lines((10, "• {}")),
        lines((9, "  - {}"), (1, "-{}")),
        "more than 90% of the",
    ),
    (
        "max_bullet_lines_ratio",
        0.9,
        lines((10, "  * {}")),
        lines((9, "•{}"), (1, "{}")),
        "begin with a bullet",
    ),
    (
        "max_ellipsis_lines_ratio",
        0.3,
        lines((4, "{} …"), (6, "{}")),
        lines((3, "{}... "), (7, "{}")),
        "more than 30%",
    ),
    (
        "min_alphabetic_words_ratio",
        0.8,
        "word (é) 12 a1 +",
        "word (é) 12 a1 +b",
        "less than 80% of the words",
    ),
    (
        "max_duplicate_lines_ratio",
        0.3,
        "a\n\nb\n a\nb\n",
        "a\n\n\nb\n a\nd\n",
        "more than 30% of the lines repeat",
    ),
]


@pytest.mark.parametrize(("rule", "bound", "bad", "good", "words"), CASES)
def test_each_rule_drops_what_is_beyond_its_bound(rule, bound, bad, good, words):
    config = QualityConfig(**{**ALL_OFF, rule: bound})
    problem = quality_problem(bad, config)
    assert problem is not None
    assert words in problem
    assert quality_problem(good, config) is None
    assert quality_problem(bad, QualityConfig(**ALL_OFF)) is None


def test_prose_passes_the_defaults_and_their_first_failure_is_named():
    assert quality_problem(PROSE, QualityConfig()) is None
    assert quality_problem("# 1 # 2", QualityConfig()) == "fewer than 50 words"


@pytest.mark.parametrize("text", ["", " \n\t\u3000"])
def test_text_without_words_always_fails(text):
    assert quality_problem(text, QualityConfig(**ALL_OFF)) == "no words"


def test_small_bounds_are_shown_in_full():
    config = QualityConfig(**{**ALL_OFF, "max_ellipsis_lines_ratio": 0.005})
    assert quality_problem("so…", config) == "more than 0.5% of the lines end in an ellipsis"


@pytest.mark.parametrize("name", ["words", "mean_word_length"])
def test_bounds_that_nothing_can_meet_are_refused(name):
    with pytest.raises(ValidationError, match=f"min_{name}"):
        QualityConfig(**{f"min_{name}": 9, f"max_{name}": 8})
