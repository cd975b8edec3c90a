"""The licence that a model folder states."""

from pathlib import Path

from turbosparse.config.yaml_text import NotYaml, parse_yaml

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
NOT_STATED = "not stated in its folder"
MAX_BYTES = 1 << 20


def model_licence(folder: Path) -> str:
    """Returns what the head of the folder's card says, else the first line of its licence file."""
    card = _beginning(folder / "README.md")
    if card.startswith("---\n"):
        head = card.removeprefix("---\n").partition("\n---")[0]
        try:
            values = parse_yaml(head)
        except NotYaml:
            values = None
        if isinstance(values, dict) and isinstance(values.get("license"), str):
            return str(values["license"])
    for name in LICENCE_FILES:
        lines = [line.strip() for line in _beginning(folder / name).splitlines() if line.strip()]
        if lines:
            return lines[0][:120]
    return NOT_STATED


def _beginning(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode("utf-8", "replace")
