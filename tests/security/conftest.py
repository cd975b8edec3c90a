"""Lets these tests use the shortest pipeline, which those of the flows describe."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "flows"))
