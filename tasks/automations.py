"""The automations of infra/automations, on a Prefect server: `python -m tasks.automations` makes them.

A webhook's address is a secret: it comes from TURBOSPARSE_WEBHOOK_URL and goes into a block.
"""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook

FOLDER = Path(__file__).resolve().parents[1] / "infra" / "automations"
WEBHOOK_VARIABLE = "TURBOSPARSE_WEBHOOK_URL"


def install_automations(folder: Path = FOLDER) -> dict[str, bool]:
    """Makes or updates every automation of a folder on the server at PREFECT_API_URL.

    Returns:
        Their names, and whether they are there: one that calls a webhook needs TURBOSPARSE_WEBHOOK_URL, or
        the block from an earlier time.
    """
    installed = {}
    for path in sorted(folder.glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        blocks = {action["block"] for action in tree["actions"] if "block" in action}
        known = {name: _webhook_block(name) for name in blocks}
        installed[tree["name"]] = all(known.values())
        if installed[tree["name"]]:
            tree["actions"] = [_with_block(action, known) for action in tree["actions"]]
            _save(Automation.model_validate(tree))
    return installed


def _webhook_block(name: str) -> UUID | None:
    """Returns the block's id, its address brought up to date; None where there is no address."""
    if url := os.environ.get(WEBHOOK_VARIABLE):
        saved = Webhook(url=url).save(name, overwrite=True)
        assert isinstance(saved, UUID)
        return saved
    try:
        return Webhook.load(name)._block_document_id
    except ValueError:
        return None


def _with_block(action: dict[str, Any], known: dict[str, UUID | None]) -> dict[str, Any]:
    if "block" not in action:
        return action
    rest = {name: value for name, value in action.items() if name != "block"}
    return rest | {"block_document_id": str(known[action["block"]])}


def _save(automation: Automation) -> None:
    try:
        present = Automation.read(name=automation.name)
    except ValueError:
        automation.create()
        return
    automation.id = present.id
    automation.update()


if __name__ == "__main__":
    for name, is_there in install_automations().items():
        print(f"{name}: {'ready' if is_there else f'left out, as {WEBHOOK_VARIABLE} is not set'}")
