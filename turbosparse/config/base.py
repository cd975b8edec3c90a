"""The one base of every configuration model."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def title_fields(schema: dict[str, Any]) -> None:
    """Gives every field of a model's JSON schema a title: pydantic gives none to those that are models."""
    for name, field in schema.get("properties", {}).items():
        field.setdefault("title", name.replace("_", " ").title())


class Config(BaseModel):
    """Frozen and closed: unknown fields are refused, docstrings under fields are their help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_extra=title_fields,
    )
