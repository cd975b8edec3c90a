"""Lets these tests use the Kubernetes API that those of launching talk to."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "train"))
