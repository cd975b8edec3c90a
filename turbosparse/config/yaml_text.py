"""YAML from outside: one kind of error for whatever is wrong with it, and nothing in it without an end."""

from typing import Any

import yaml

MAX_VALUES = 100_000
"""Aliases let a few lines stand for more values than memory holds, or for themselves."""
MAX_INTEGER_BITS = 1_024


class NotYaml(ValueError):
    """A text that is no YAML, or that is not to be read; the message says why, and where."""


def parse_yaml(text: str) -> Any:
    """Returns what a YAML text says, made of plain values only.

    Raises:
        NotYaml: It is none, names a date that does not exist, or goes on without an end.
    """
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # its constructors of dates and numbers raise whatever they meet
        raise NotYaml(str(error) or type(error).__name__) from error
    _check_ends(tree)
    return tree


def _check_ends(tree: Any) -> None:
    values, num_values = [tree], 0
    while values:
        value = values.pop()
        num_values += 1
        if num_values > MAX_VALUES:
            raise NotYaml(f"more than {MAX_VALUES:,} values")
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise NotYaml("a number of more digits than anything has")
        if isinstance(value, dict):
            values += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            values += value
