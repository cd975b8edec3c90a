"""The gate before a promotion: every bound of the configuration, held against what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from turbosparse.config import GateConfig
from turbosparse.errors import ConfigError
from turbosparse.evaluation.compare import Difference


@dataclass(frozen=True)
class Measured:
    """What the gate reads of an evaluation."""

    results: Mapping[str, Mapping[str, float]]
    """Figures by task and metric."""
    active_ratio: float
    """Share of FFN neurons that are active, mean over layers."""

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "Measured":
        """Returns that of an evaluate artifact's metrics."""
        return cls(metrics["results"], 1.0 - metrics["zero_activation_ratio"])


@dataclass(frozen=True)
class Check:
    """One bound, and what was held against it."""

    name: str
    measured: float
    bound: str
    """In words, with its figure: `at most 0.6`."""
    holds: bool

    def describe(self) -> str:
        """Returns why the check failed, for people."""
        return f"{self.name} is {self.measured:.4g}, must be {self.bound}"


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may be the champion."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether all checks hold."""
        return all(check.holds for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why it may not."""
        return [check.describe() for check in self.checks if not check.holds]

    def as_json(self) -> dict[str, Any]:
        """Returns the verdict with all its checks."""
        checks = [asdict(check) for check in self.checks]
        return {"holds": self.holds, "reasons": self.reasons, "checks": checks}


def judge(
    gate: GateConfig, candidate: Measured, champion: Measured | None, differences: Sequence[Difference]
) -> Verdict:
    """Holds a candidate against the absolute bounds and, where there is a champion, against that.

    Args:
        gate: the bounds.
        candidate: its evaluation.
        champion: its evaluation on the same items and text; None: there is none yet.
        differences: the candidate's from the champion by task, item by item; none without a champion.

    Raises:
        ConfigError: The perplexity that the gate asks for was not measured.
    """
    checks = list(_absolute(gate, candidate))
    if champion is not None:
        checks += _relative(gate, candidate, champion)
        checks += [
            _no_worse(gate, task) for task in differences if f"{task.task}.{task.metric}" != gate.perplexity
        ]
    return Verdict(tuple(checks))


def _absolute(gate: GateConfig, candidate: Measured) -> Iterator[Check]:
    perplexity, active = _perplexity(gate, candidate), candidate.active_ratio
    if gate.max_perplexity is not None:
        yield _at_most(gate.perplexity, perplexity, gate.max_perplexity)
    yield _at_most("active ratio", active, gate.max_active_ratio)
    bound = f"at least {gate.min_active_ratio:g}"
    yield Check("active ratio", active, bound, active >= gate.min_active_ratio)


def _relative(gate: GateConfig, candidate: Measured, champion: Measured) -> Iterator[Check]:
    ratio = _perplexity(gate, candidate) / _perplexity(gate, champion)
    yield _at_most(f"{gate.perplexity} over the champion's", ratio, gate.max_perplexity_ratio)
    increase = candidate.active_ratio - champion.active_ratio
    yield _at_most("active ratio less the champion's", increase, gate.max_active_ratio_increase)


def _no_worse(gate: GateConfig, task: Difference) -> Check:
    holds = task.corrected_p_worse >= gate.significance
    figures = f"{task.value:.4g} against the champion's {task.baseline_value:.4g}"
    name = f"p-value of {task.task}.{task.metric} being no worse ({figures})"
    return Check(name, task.corrected_p_worse, f"at least {gate.significance:g}", holds)


def _at_most(name: str, measured: float, bound: float) -> Check:
    return Check(name, measured, f"at most {bound:g}", measured <= bound)


def _perplexity(gate: GateConfig, measured: Measured) -> float:
    task, _, metric = gate.perplexity.partition(".")
    value = measured.results.get(task, {}).get(metric)
    if value is None:
        known = [f"{name}.{figure}" for name, figures in measured.results.items() for figure in figures]
        remedy = "set retrain.gate.perplexity to one of these, or add its task to evaluate.tasks"
        raise ConfigError("retrain.gate.perplexity", gate.perplexity, ", ".join(known), remedy)
    return value
