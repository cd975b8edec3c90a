"""What fuzzing does to good input, and what it expects of whoever reads the result."""

import copy
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turbosparse.errors import TurboSparseError

NUM_EXAMPLES = int(os.environ.get("TURBOSPARSE_FUZZ_EXAMPLES", "30"))
"""Cases of each property, or some times as many: 30 take seconds, thousands are for a night."""
SECONDS_TO_ANSWER = 30

ODD_TEXTS = ("", "\0", "../..", "/etc/passwd", "\ud800", "x" * 5_000, "1e999", "${HOME}", "s3://nowhere")
ODD_NUMBERS = (0, -1, 1, 3, 2**31, 2**63, 10**30, 1e308, -0.0, 0.5)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say, and floats that it can't."""


def fuzzed(strategy: st.SearchStrategy[Any], share: float = 1.0) -> Callable[[Any], Any]:
    """Runs a test on cases of a strategy, the same ones each time; `share` of the usual number of them."""
    chosen = settings(
        max_examples=max(1, round(NUM_EXAMPLES * share)),
        deadline=None,
        derandomize=True,
        database=None,
        # Files that a case writes lie in a folder that all of a test's cases share.
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: chosen(given(strategy)(test))


@contextmanager
def success_or_refusal() -> Iterator[None]:
    """Lets an error for users pass if it says what to do; anything else, and a hang, fails the test."""
    previous = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS_TO_ANSWER)
    try:
        yield
    except TurboSparseError as error:
        assert error.field and error.expected and error.remedy
        str(error).encode()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _hangs(number: int, frame: Any) -> None:
    raise AssertionError(f"no answer within {SECONDS_TO_ANSWER} s")


@st.composite
def mutated_trees(draw: st.DrawFn, tree: Any) -> Any:
    """Draws a JSON tree with up to three values replaced, left out or added."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            return draw(JSON)
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                container[key] = draw(JSON)
            case "remove":
                del container[key]
            case "add" if isinstance(container, dict):
                container[draw(st.text(max_size=8))] = draw(JSON)
            case "add":
                container.insert(key, draw(JSON))
    return changed


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the container and the key of every value below `tree`."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield tree, key
        yield from _places(value)


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draws the bytes with up to four places changed, cut, repeated or filled with others."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "remove":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)
