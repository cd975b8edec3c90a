"""The stages of the paper's method: each module builds one artifact, `make` decides whether it must.

This is what a flow's tasks call, and what a Python prompt can call without any server.
"""

from turbosparse.stages.make import StageName, make, preload, stages_of
from turbosparse.stages.retraining import branched, champion_run, nothing_to_learn, promote_candidate
from turbosparse.stages.run import Run, open_run
from turbosparse.stages.specs import require_parents

__all__ = [
    "Run",
    "StageName",
    "branched",
    "champion_run",
    "make",
    "nothing_to_learn",
    "open_run",
    "preload",
    "promote_candidate",
    "require_parents",
    "stages_of",
]
