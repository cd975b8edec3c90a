"""The one base of every configuration model."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen and closed: unknown fields are refused, docstrings under fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def identity(self) -> dict[str, Any]:
        """Returns the JSON-able content that takes part in an artifact's identity."""
        return self.model_dump(mode="json")
