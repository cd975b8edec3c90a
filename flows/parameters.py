"""What every flow takes: the fields of its form in the Prefect UI, and the name of its run."""

from typing import Any

from prefect.runtime import flow_run
from pydantic import Field

from turbosparse.config import Overrides, Placement

PRESET: Any = Field(default="300m", description="Which of the paper's runs, or a small one for trying.")
OVERRIDES: Any = Field(
    default=Overrides(), description="What differs from the preset; empty fields follow it."
)
DRY_RUN: Any = Field(
    default=False,
    description="Applies the preset's short dry run: true widths, few steps, text of the worker's machine.",
)
PLACEMENT: Any = Field(
    default=Placement(),
    description="Where it runs, from which inputs, into which root. Nothing here changes what is made.",
)


def run_name() -> str:
    """Returns a name that says what runs: pipeline-tiny, pipeline-300m-dry-run."""
    parameters = flow_run.get_parameters()
    suffix = "-dry-run" if parameters.get("dry_run") else ""
    return f"{flow_run.get_flow_name()}-{parameters['preset']}{suffix}"
