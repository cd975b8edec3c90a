"""A library that takes signals when it is imported must not keep them: Prefect cancels by SIGTERM."""

import signal
import sys

import pytest

from turbosparse.processes import keeping_signal_handlers


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_given_back_also_where_the_import_fails(handlers, tmp_path, monkeypatch):
    taker = "import signal\nfor number in (15, 2):\n    signal.signal(number, lambda *_: None)\n1 / 0\n"
    (tmp_path / "taker.py").write_text(taker)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError), keeping_signal_handlers():
        __import__("taker")
    sys.modules.pop("taker", None)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
