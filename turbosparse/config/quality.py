"""Rules that a document's text must pass."""

from typing import Annotated, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from turbosparse.config.base import Config
from turbosparse.errors import ConfigError

Count = Annotated[int, Ge(1)]
Ratio = Annotated[float, Ge(0)]


class QualityConfig(Config):
    """Bounds on a document's statistics; none switches a bound off.

    Words are what stands between spaces, lines are those that are not blank. The defaults are
    Gopher's, made for web pages: they drop much of any code. Its rule that two of eight English
    function words occur is left out.

    Reference: Rae et al., Scaling Language Models (2021), Appendix A.1.1 and Table A1.
    """

    min_words: Count | None = 50
    """Words at the least."""
    max_words: Count | None = 100_000
    """Words at the most. Whole books are longer."""
    min_mean_word_length: Annotated[float, Gt(0)] | None = 3.0
    """Mean characters per word at the least; shorter are rows of numbers and signs."""
    max_mean_word_length: Annotated[float, Gt(0)] | None = 10.0
    """Mean characters per word at the most; longer are addresses, encoded data and long identifiers."""
    max_symbol_ratio: Ratio | None = 0.1
    """`#` per word at the most, and as many ellipses (`…` or `...`)."""
    max_bullet_lines_ratio: Ratio | None = 0.9
    """Part of the lines that may begin with a bullet."""
    max_ellipsis_lines_ratio: Ratio | None = 0.3
    """Part of the lines that may end in an ellipsis, as the beginnings of articles in a list do."""
    min_alphabetic_words_ratio: Ratio | None = 0.8
    """Part of the words that must have a letter."""
    max_duplicate_lines_ratio: Ratio | None = 0.3
    """Part of the lines that may repeat an earlier line of the document."""

    @model_validator(mode="after")
    def _has_room_between_bounds(self) -> Self:
        for name in ("words", "mean_word_length"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ConfigError(
                    f"quality.min_{name}",
                    low,
                    f"at most max_{name}, {high}",
                    "lower it, or raise the other bound",
                )
        return self
