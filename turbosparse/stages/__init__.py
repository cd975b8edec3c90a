"""The stages of the paper's method: each module builds one artifact, `make` decides whether it must.

This is what a flow's tasks call, and what a Python prompt can call without any server.
"""

from turbosparse.stages.make import StageName, make, preload, stages_of
from turbosparse.stages.run import Run, open_run
from turbosparse.stages.specs import require_parents

__all__ = ["Run", "StageName", "make", "open_run", "preload", "require_parents", "stages_of"]
