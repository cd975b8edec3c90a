"""Which rule of quality a text fails.

Reference: Rae et al., Scaling Language Models (2021), Appendix A.1.1 and Table A1.
"""

import re
from collections.abc import Iterator

from turbosparse.config.quality import QualityConfig

# From a word's first letter to its end: as many matches as words with a letter.
_LETTER = re.compile(r"[^\W\d_]\S*")
_ELLIPSES = ("...", "…")
# A hyphen or an asterisk is a bullet only before a space.
_BULLET = re.compile(r"[•‣▪◦●]|[-*]\s")


def quality_problem(text: str, config: QualityConfig) -> str | None:
    """Returns the first rule that the text fails, in words and with its bound; None if it passes.

    A text without any word fails under every configuration.
    """
    words = text.split()
    if not words:
        return "no words"
    return next(_word_problems(text, words, config), None) or next(_line_problems(text, config), None)


def _word_problems(text: str, words: list[str], config: QualityConfig) -> Iterator[str]:
    num_words = len(words)
    if _is_below(num_words, config.min_words):
        yield f"fewer than {config.min_words} words"
    if _is_above(num_words, config.max_words):
        yield f"more than {config.max_words} words"
    mean_length = sum(map(len, words)) / num_words
    if _is_below(mean_length, config.min_mean_word_length):
        yield f"words shorter than {config.min_mean_word_length:g} characters on average"
    if _is_above(mean_length, config.max_mean_word_length):
        yield f"words longer than {config.max_mean_word_length:g} characters on average"
    if _is_above(text.count("#") / num_words, config.max_symbol_ratio):
        yield f"more than {config.max_symbol_ratio:g} # per word"
    if _is_above(sum(map(text.count, _ELLIPSES)) / num_words, config.max_symbol_ratio):
        yield f"more than {config.max_symbol_ratio:g} ellipses per word"
    if _is_below(len(_LETTER.findall(text)) / num_words, config.min_alphabetic_words_ratio):
        yield f"less than {_percent(config.min_alphabetic_words_ratio)} of the words have a letter"


def _line_problems(text: str, config: QualityConfig) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bullets = sum(_BULLET.match(line) is not None for line in lines)
    if _is_above(bullets / len(lines), config.max_bullet_lines_ratio):
        yield f"more than {_percent(config.max_bullet_lines_ratio)} of the lines begin with a bullet"
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    if _is_above(ellipses / len(lines), config.max_ellipsis_lines_ratio):
        yield f"more than {_percent(config.max_ellipsis_lines_ratio)} of the lines end in an ellipsis"
    if _is_above(1 - len(set(lines)) / len(lines), config.max_duplicate_lines_ratio):
        yield f"more than {_percent(config.max_duplicate_lines_ratio)} of the lines repeat an earlier one"


def _is_below(value: float, bound: float | None) -> bool:
    return bound is not None and value < bound


def _is_above(value: float, bound: float | None) -> bool:
    return bound is not None and value > bound


def _percent(ratio: float | None) -> str:
    assert ratio is not None
    return f"{100 * ratio:g}%"
