"""Lets these tests use the shortest pipeline, and the Kubernetes API that those of launching talk to."""

import sys
from pathlib import Path

for folder in ("flows", "train"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
