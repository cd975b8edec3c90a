"""Settings for all tests: libraries quiet and offline, Prefect at home in a temporary folder."""

import os
import tempfile
from pathlib import Path

import pytest

# Before torch is imported: spinning threads of two processes on two cores starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="turbosparse-prefect-")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A real SwiGLU Llama of 260K parameters, where the test data is present."""
    folder = SHARED_DATA / "checkpoints" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the stories260K checkpoint")
    return folder
