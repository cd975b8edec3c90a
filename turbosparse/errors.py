"""Errors that a user can act on: each names the field, its value, what is expected and the remedy."""

from typing import Any


class TurboSparseError(ValueError):
    """Bad input. The command line prints the message and exits with status 2, nothing written."""

    def __init__(self, field: str, value: object, expected: str, remedy: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{field}: {_shown(value)}. Expected: {expected}. Remedy: {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets the error travel from a worker's process to this one."""
        return type(self), (self.field, self.value, self.expected, self.remedy)


class ConfigError(TurboSparseError):
    """A preset, a `--set` or a configuration file that does not describe a run."""


class DataError(TurboSparseError):
    """Corpora, tokenizers or instruction rows that can't be used."""


class ModelError(TurboSparseError):
    """A model folder of an unknown architecture, or without what was asked of it."""


class ArtifactError(TurboSparseError):
    """An artifact that is missing, corrupt, or can't be written."""


class TrainingError(RuntimeError):
    """A training process ended without its result; the message carries the end of its output."""


class TrainingDiverged(TrainingError):
    """A step's loss or gradient was not to be trusted; the message says what to change."""


class TrainingPreempted(TrainingError):
    """Training ended because it was told to; run again, it resumes at its last checkpoint."""


def _shown(value: object, longest: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[:longest] + "…"
