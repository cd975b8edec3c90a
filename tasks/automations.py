"""The automations of infra/automations, on a Prefect server: `python -m tasks.automations` makes them.

A webhook's address is a secret: it comes from TURBOSPARSE_WEBHOOK_URL and goes into a block.
"""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

FOLDER = Path(__file__).resolve().parents[1] / "infra" / "automations"
WEBHOOK_VARIABLE = "TURBOSPARSE_WEBHOOK_URL"


def install_automations(folder: Path = FOLDER) -> dict[str, bool]:
    """Makes or updates every automation of a folder on the server at PREFECT_API_URL.

    Returns:
        Their names, and whether they are there: one that calls a webhook needs TURBOSPARSE_WEBHOOK_URL, or
        the block from an earlier time.
    """
    installed = {}
    with get_client(sync_client=True) as client:
        for path in sorted(folder.glob("*.yaml")):
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
            blocks = {action["block"] for action in tree["actions"] if "block" in action}
            known = {name: _webhook_block(client, name) for name in blocks}
            installed[tree["name"]] = all(known.values())
            if installed[tree["name"]]:
                tree["actions"] = [_with_block(action, known) for action in tree["actions"]]
                _save(client, AutomationCore.model_validate(tree))
    return installed


def _webhook_block(client: SyncPrefectClient, name: str) -> UUID | None:
    """Returns the block's id, its address brought up to date; None where there is no address."""
    if url := os.environ.get(WEBHOOK_VARIABLE):
        saved = Webhook(url=SecretStr(url)).save(name, overwrite=True)
        assert isinstance(saved, UUID)
        return saved
    try:
        return client.read_block_document_by_name(name, "webhook").id
    except ObjectNotFound:
        return None


def _with_block(action: dict[str, Any], known: dict[str, UUID | None]) -> dict[str, Any]:
    if "block" not in action:
        return action
    rest = {name: value for name, value in action.items() if name != "block"}
    return rest | {"block_document_id": str(known[action["block"]])}


def _save(client: SyncPrefectClient, automation: AutomationCore) -> None:
    present = client.read_automations_by_name(automation.name)
    if present:
        client.update_automation(present[0].id, automation)
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    for name, is_there in install_automations().items():
        print(f"{name}: {'ready' if is_there else f'left out, as {WEBHOOK_VARIABLE} is not set'}")
