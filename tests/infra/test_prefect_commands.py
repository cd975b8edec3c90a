"""Every `prefect …` of infra/, as Prefect's own command line understands it."""

import re
import shlex
from collections.abc import Iterator

import pytest
from documents import INFRA, KUBERNETES, Document, pods_of, read_documents

ANYWHERE = re.compile(r"\bprefect (?:--no-prompt )?(?:server|work-pool|worker|deploy)\b[^&\n]*")


def _said(words: list[str]) -> Iterator[list[str]]:
    """Yields Prefect's words of a command: its own, or those inside a shell's."""
    if words[0] == "prefect":
        yield words[1:]
    for text in words[1:] if words[0] == "sh" else []:
        yield from (shlex.split(found)[1:] for found in ANYWHERE.findall(text))


def _commands() -> Iterator[list[str]]:
    compose: Document = read_documents(INFRA / "compose" / "compose.yaml")[0]
    for service in compose["services"].values():
        yield from _said(service.get("command", [""]))
    documents = [document for path in KUBERNETES.glob("*/*.yaml") for document in read_documents(path)]
    for _, pod in pods_of(documents):
        for container in pod["spec"]["containers"]:
            yield from _said([*container.get("command", [""]), *container.get("args", [])])


COMMANDS = list(_commands())


def test_all_of_them_are_found():
    assert len(COMMANDS) == 12
    assert len([words for words in COMMANDS if words[:2] == ["server", "start"]]) == 2


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_prefect_knows_the_command_and_its_options(words):
    from prefect.cli._app import _app  # noqa: PLC0415 - seconds

    if words[0] == "--no-prompt":
        session = _app.meta.parse_args(words[:1], exit_on_error=False, print_error=False)[1]
        assert session.arguments["prompt"] is False
        words = words[1:]
    _app.parse_args(words, exit_on_error=False, print_error=False)
    with pytest.raises(Exception, match="--unheard-of"):
        _app.parse_args([*words, "--unheard-of"], exit_on_error=False, print_error=False)
