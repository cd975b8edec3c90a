"""Sharded training state that becomes visible only when it is whole, on a disk or an object store."""

from turbosparse.train.checkpoints.assemble import assemble_model
from turbosparse.train.checkpoints.checkpoint import Checkpoint
from turbosparse.train.checkpoints.store import CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore", "assemble_model"]
