"""Errors that a user can act on: each names the field, its value, what is expected and the remedy."""

from typing import Any

from turbosparse.masking import mask, mask_value


class TurboSparseError(ValueError):
    """Bad input. The command line prints the message and exits with status 2, nothing written.

    Secrets in it are masked.
    """

    def __init__(self, field: str, value: object, expected: str, remedy: str) -> None:
        self.field = mask(field)
        self.value = mask_value(value)
        self.expected = mask(expected)
        self.remedy = mask(remedy)
        super().__init__(
            f"{self.field}: {_shown(self.value)}. Expected: {self.expected}. Remedy: {self.remedy}"
        )

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
    """A training process ended without its result; the message carries the end of its output, masked."""

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class TrainingDiverged(TrainingError):
    """A step's loss or gradient was not to be trusted; the message says what to change."""


class TrainingPreempted(TrainingError):
    """Training ended because it was told to; run again, it resumes at its last checkpoint."""


class CandidateRejected(RuntimeError):
    """A retraining's candidate did not hold the gate; the champion stays."""

    def __init__(self, verdict: str, reasons: list[str]) -> None:
        self.verdict = verdict
        self.reasons = reasons
        super().__init__(f"the champion stays: {'; '.join(reasons)} ({verdict})")

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets the error be kept as a flow run's result."""
        return type(self), (self.verdict, self.reasons)


def _shown(value: object, longest: int = 200) -> str:
    text = mask(repr(value))
    return text if len(text) <= longest else text[:longest] + "…"
