"""Credentials from Prefect blocks: into the environment of the flow run, where every library looks."""

import os
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from turbosparse.artifacts.endpoint import use_endpoint
from turbosparse.config import AccessConfig
from turbosparse.errors import ConfigError

AWS_VARIABLES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "region_name": "AWS_DEFAULT_REGION",
}


def use_access(access: AccessConfig) -> None:
    """Sets the environment variables that the named blocks hold, and the endpoint of object storage.

    Blocks win over the environment. Values go nowhere else: no parameter, no log, no artifact.

    Raises:
        ConfigError: There is no such block, or it lacks what it is asked for.
    """
    found = _read_blocks(access) if access.names_blocks else {}
    endpoint = found.pop("endpoint_url", None)
    os.environ.update(found)
    use_endpoint(access.endpoint_url or endpoint)


def _read_blocks(access: AccessConfig) -> dict[str, str]:
    with get_client(sync_client=True) as client:
        block = access.aws_credentials_block
        found = _aws(client, block) if block is not None else {}
        secrets = access.secret_blocks.items()
        return found | {variable: _secret(client, variable, block) for variable, block in secrets}


def _aws(client: SyncPrefectClient, block: str) -> dict[str, str]:
    """Reads the block as plain data: its class is prefect-aws's, which need not be installed."""
    data = _read(
        client, "placement.access.aws_credentials_block", block, "aws-credentials", "AWS Credentials"
    )
    found = {variable: data[name] for name, variable in AWS_VARIABLES.items() if data.get(name)}
    endpoint = (data.get("aws_client_parameters") or {}).get("endpoint_url")
    return found | ({"endpoint_url": endpoint} if endpoint else {})


def _secret(client: SyncPrefectClient, variable: str, block: str) -> str:
    field = f"placement.access.{variable.lower()}_block"
    value = _read(client, field, block, "secret", "Secret").get("value")
    if not isinstance(value, str) or not value:
        raise ConfigError(field, block, "a Secret block that holds a text", "save the value itself in it")
    return value


def _read(client: SyncPrefectClient, field: str, block: str, slug: str, kind: str) -> dict[str, Any]:
    try:
        return client.read_block_document_by_name(block, slug, include_secrets=True).data
    except ObjectNotFound as error:
        remedy = "create it in the UI (Blocks), or leave the field empty and set the environment"
        raise ConfigError(field, block, f"the name of a block of type {kind}", remedy) from error
