"""How a run gets at object storage, W&B and the hub. Addresses and names of blocks; never a secret."""

from typing import Annotated

from pydantic import Field

from turbosparse.config.base import Config
from turbosparse.config.uri import Address

BlockName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=32)]
"""A Prefect block's name. Too short, and of too few letters, for keys that are pasted here by mistake."""


class AccessConfig(Config):
    """Where object storage answers, and which Prefect blocks hold the credentials.

    A field that names no block leaves its credential to the environment variable of that name, or to
    the machine's role.
    """

    endpoint_url: Address | None = None
    """The object store, such as http://minio:9000 (MinIO, R2, Ceph); none: AWS_ENDPOINT_URL, else Amazon."""
    aws_credentials_block: BlockName | None = None
    """Name of an AWS Credentials block: keys, region, and the endpoint unless endpoint_url says another."""
    aws_access_key_id_block: BlockName | None = None
    """Name of a Secret block that holds AWS_ACCESS_KEY_ID."""
    aws_secret_access_key_block: BlockName | None = None
    """Name of a Secret block that holds AWS_SECRET_ACCESS_KEY."""
    wandb_api_key_block: BlockName | None = None
    """Name of a Secret block that holds WANDB_API_KEY."""
    hf_token_block: BlockName | None = None
    """Name of a Secret block that holds HF_TOKEN, for gated models and data sets of the hub."""

    @property
    def names_blocks(self) -> bool:
        """Whether a Prefect server must be asked for credentials."""
        return self.aws_credentials_block is not None or bool(self.secret_blocks)

    @property
    def secret_blocks(self) -> dict[str, str]:
        """Environment variables, and the Secret blocks that hold their values."""
        fields = {
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id_block,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key_block,
            "WANDB_API_KEY": self.wandb_api_key_block,
            "HF_TOKEN": self.hf_token_block,
        }
        return {variable: block for variable, block in fields.items() if block is not None}
