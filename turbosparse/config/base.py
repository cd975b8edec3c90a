"""The one base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen and closed: unknown fields are refused, docstrings under fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
